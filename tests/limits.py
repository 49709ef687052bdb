"""Limits for tests: those of the default settings, with changes."""

from dataclasses import replace

from app import main
from app.cache.config import CacheConfig
from app.cache.redis_store import Lifetimes, RedisOptions
from app.products.service import WriteLimits
from app.settings import Settings

SETTINGS = Settings.from_env({})


def cache_config(**changes: int) -> CacheConfig:
    """The cache's limits."""
    return replace(main.cache_config(SETTINGS), **changes)


def lifetimes(**changes: int) -> Lifetimes:
    """How long slots and leases live."""
    return replace(main.lifetimes(SETTINGS), **changes)


def redis_options(url: str, **changes: int) -> RedisOptions:
    """Where Redis is, with deadlines that a busy machine keeps."""
    return replace(main.redis_options(SETTINGS), url=url, **{"timeout_ms": 5_000, "connect_timeout_ms": 5_000, **changes})


def write_limits(**changes: int) -> WriteLimits:
    """The write path's limits."""
    return replace(main.write_limits(SETTINGS), **changes)
