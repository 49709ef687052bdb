"""Where the servers of the settings are, and who connects to them: what the service and the command have in common."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from app.cache.redis.places import Credentials
from app.cache.redis.store import RedisOptions
from app.cache.redis.tls import RedisTls
from app.passwords import Password
from app.postgres.database import limits_of
from app.postgres.primary import Primary, ReadPassword
from app.settings import Settings


def primary_of(settings: Settings) -> Primary:
    """Return where PostgreSQL is."""
    return Primary(settings.database_url, _database_password(settings), pooled=settings.database_pooler == "transaction")


def migration_primary_of(settings: Settings) -> Primary:
    """Return where migrations find PostgreSQL: not behind a pooler, because they hold a lock of the session."""
    url = settings.migration_database_url or settings.database_url
    return Primary(url, None if "password" in conninfo_to_dict(url) else _database_password(settings))


def role_limits(settings: Settings) -> Mapping[str, str]:
    """Return the deadlines of the role's settings behind a pooler. A transaction has those of its part of the service."""
    return limits_of(settings.database_statement_timeout_ms, settings.database_lock_timeout_ms)


def redis_options(settings: Settings) -> RedisOptions:
    """Return where Redis is and how long to wait for it."""
    return RedisOptions(
        settings.redis_url,
        timeout_ms=settings.redis_timeout_ms,
        connect_timeout_ms=settings.redis_connect_timeout_ms,
        retry_ms=settings.redis_retry_ms,
        tls=RedisTls(settings.redis_ca_file, settings.redis_cert_file, settings.redis_key_file, settings.redis_tls_name),
        credentials=Credentials(
            _read_password(settings.redis_password_file, settings.redis_password_command),
            settings.sentinel_username,
            settings.sentinel_password,
            _read_password(settings.sentinel_password_file, settings.sentinel_password_command),
        ),
        max_age_s=settings.redis_connection_max_age_s,
        near_bytes=settings.near_bytes,
    )


def _database_password(settings: Settings) -> ReadPassword | None:
    return _read_password(settings.database_password_file, settings.database_password_command)


def _read_password(file: str, command: str) -> ReadPassword | None:
    if not file and not command:
        return None
    return Password(file=Path(file) if file else None, command=shlex.split(command)).read
