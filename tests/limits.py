"""Limits for tests: those of the default settings, with changes."""

import os
from dataclasses import fields, replace
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from app import main, places
from app.cache.config import CacheConfig
from app.cache.redis.store import Lifetimes, RedisOptions
from app.postgres.database import Database
from app.products.service import WriteLimits
from app.settings import Settings

SETTINGS = Settings.from_env({})


def cache_config(**changes: Any) -> CacheConfig:
    """The cache's limits."""
    return replace(main.cache_limits(SETTINGS).config(), **changes)


def lifetimes(**changes: int) -> Lifetimes:
    """How long slots and leases live."""
    return replace(Lifetimes(**{field.name: getattr(SETTINGS, field.name) for field in fields(Lifetimes)}), **changes)


def redis_options(url: str, **changes: int) -> RedisOptions:
    """Where Redis is, with deadlines that a busy machine keeps; ``changes`` are named without ``redis_``."""
    longer = {"redis_timeout_ms": 5_000, "redis_connect_timeout_ms": 5_000}
    changed = {f"redis_{name}": value for name, value in changes.items()}
    return places.redis_options(SETTINGS.model_copy(update={"redis_url": url, **longer, **changed}))


def write_limits(**changes: int) -> WriteLimits:
    """The write path's limits."""
    return replace(main.write_limits(SETTINGS), **changes)


def open_database(url: str, **changes: int | str) -> Database:
    """Connections to PostgreSQL; the settings of ``changes`` are named without ``database_``.

    They go through the session's pooler if it has one (``tests/conftest.py``).
    """
    changed = {f"database_{name}": value for name, value in changes.items()}
    if port := os.environ.get("TESTS_POOLER_PORT"):
        url = f"postgresql://postgres@127.0.0.1:{port}/{conninfo_to_dict(url)['dbname']}?sslmode=disable"
        changed["database_pooler"] = "transaction"
    return main.open_database(SETTINGS.model_copy(update={"database_url": url, **changed}))
