"""The settings of a command, and the servers that they name."""

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

import psycopg
import redis.asyncio
import redis.exceptions
from psycopg.conninfo import conninfo_to_dict
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from app.cli.errors import CommandFailed
from app.settings import Settings, SettingsError

_NO_RETRY = Retry(NoBackoff(), 0)


def read_settings(overrides: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of the environment, with some of its variables replaced.

    Raises:
        CommandFailed: a setting is unknown, malformed, or contradicts another one.
    """
    try:
        return Settings.from_env({**os.environ, **(overrides or {})})
    except SettingsError as error:
        raise CommandFailed("; ".join(str(error).splitlines())) from error


async def check_database(settings: Settings) -> None:
    """Connect to PostgreSQL once.

    Raises:
        CommandFailed: the URL is missing or malformed, the server cannot be reached, or it refuses the user.
    """
    url = settings.database_url
    if not url:
        raise CommandFailed("LARDER_DATABASE_URL is not set. Name a PostgreSQL, or let `larder dev` start a private one.")
    try:
        place = _database_place(url)
    except psycopg.ProgrammingError as error:
        raise CommandFailed(
            "LARDER_DATABASE_URL is not a PostgreSQL URL: postgresql://user:password@host:5432/database"
        ) from error
    timeout_s = max(1, settings.database_connect_timeout_ms // 1000)
    try:
        await (await psycopg.AsyncConnection.connect(url, connect_timeout=timeout_s)).close()
    except psycopg.Error as error:
        raise CommandFailed(f"PostgreSQL at {place} (LARDER_DATABASE_URL) {_connect_failure(str(error))}") from error


async def check_redis(settings: Settings) -> str | None:
    """Ping Redis once. Return a warning to print if it does not answer, since Larder serves without it.

    Raises:
        CommandFailed: the URL is missing or malformed, or the server refuses the user, so waiting does not help.
    """
    if not settings.redis_url:
        raise CommandFailed("LARDER_REDIS_URL is not set. Name a Redis, or let `larder dev` start a private one.")
    timeout_s = settings.redis_connect_timeout_ms / 1000
    try:
        place = urlsplit(settings.redis_url).netloc.rpartition("@")[2] or urlsplit(settings.redis_url).path
        client = redis.asyncio.Redis.from_url(
            settings.redis_url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=_NO_RETRY
        )
    except ValueError as error:
        raise CommandFailed("LARDER_REDIS_URL is not a Redis URL: redis://:password@host:6379/0") from error
    try:
        await client.ping()
    except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise CommandFailed(
            f"Redis at {place} (LARDER_REDIS_URL) refuses the user or password ({error}). Correct the URL."
        ) from error
    except (redis.exceptions.RedisError, OSError) as error:
        return f"Redis at {place} does not answer ({error}): Larder serves from PostgreSQL until it does."
    finally:
        await client.aclose()
    return None


def _database_place(url: str) -> str:
    parts = conninfo_to_dict(url)
    host, port = parts.get("host") or "the local socket", parts.get("port") or 5432
    return f"{host}:{port}/{parts.get('dbname') or ''}"


def _connect_failure(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    reason = lines[0].rpartition("failed: ")[2] if lines else "no reason given"
    lowered = message.lower()
    if "password" in lowered or "authentication" in lowered or "role" in lowered:
        return f"does not let us in ({reason}). Correct the user or the password in the URL."
    if "does not exist" in lowered:
        return f"has no such database ({reason}). Create it, or correct the URL."
    return f"cannot be reached ({reason}). Start it, or correct the URL."
