"""The settings of a command, and the servers that they name."""

import os
import ssl
from collections.abc import Mapping
from typing import TypeVar

import psycopg
import redis.exceptions
from psycopg.conninfo import conninfo_to_dict

from app.cache.errors import StoreUnavailable, WrongSentinel
from app.cache.redis.connection import RedisConnection
from app.cache.redis.nodes import map_of
from app.cache.redis.slot_map import URL_ADDRESS
from app.cli.errors import CommandFailed
from app.passwords import PasswordUnavailable
from app.places import migration_primary_of, primary_of, redis_options
from app.settings import Settings, SettingsError

_REDIS_FORM = "redis://user:password@host:6379/0, or sentinel://user:password@host:26379,host:26379/0?service=name"
_SENTINEL_CURE = (
    "Let the URL begin with sentinel:// and name the sentinels and service=, or with redis:// and name the data server."
    " LARDER_SENTINEL_USERNAME and LARDER_SENTINEL_PASSWORD are for the sentinels."
)
Kind = TypeVar("Kind", bound=BaseException)
# Of OpenSSL: not yet valid, expired.
_TIMES = frozenset({9, 10})
# Of OpenSSL: another host name, another IP address.
_NAMES = frozenset({62, 64})
# What libpq says, what is wrong, and what to do.
_DATABASE_FAULTS = (
    (
        "certificate verify failed",
        (
            "shows a certificate that sslrootcert did not sign",
            "Correct sslrootcert in the URL.",
        ),
    ),
    (
        "does not match host name",
        (
            "shows a certificate of another name",
            "Name the host as the certificate does; hostaddr may say where it is.",
        ),
    ),
    ("root certificate file", ("cannot be verified", "Let sslrootcert in the URL name the authority's certificate.")),
    ("statement pooling", ("is a pooler in statement mode", "Set pool_mode = transaction or session there.")),
    ("does not support ssl", ("does not speak TLS", "Turn `ssl` on there, or correct sslmode in the URL.")),
)


def read_settings(overrides: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of the environment, with some of its variables replaced.

    Raises:
        CommandFailed: a setting is unknown, malformed, or contradicts another one.
    """
    try:
        return Settings.from_env({**os.environ, **(overrides or {})})
    except SettingsError as error:
        raise CommandFailed("; ".join(str(error).splitlines())) from error


async def check_database(settings: Settings, *, to_migrate: bool = False) -> None:
    """Connect to PostgreSQL once, as the service does, or as a migration does.

    Raises:
        CommandFailed: the URL is missing or malformed, the server cannot be reached, or it refuses the user.
    """
    if not settings.database_url:
        raise CommandFailed("LARDER_DATABASE_URL is not set. Name a PostgreSQL, or let `larder dev` start a private one.")
    if to_migrate and settings.database_pooler == "transaction" and not settings.migration_database_url:
        raise CommandFailed(
            "A migration holds a lock of its session, which a pooler in transaction mode does not keep. Let"
            " LARDER_MIGRATION_DATABASE_URL lead to PostgreSQL itself."
        )
    apart = to_migrate and settings.migration_database_url
    url, variable = (
        (settings.migration_database_url, "LARDER_MIGRATION_DATABASE_URL")
        if apart
        else (settings.database_url, "LARDER_DATABASE_URL")
    )
    try:
        place = _database_place(url)
    except psycopg.ProgrammingError as error:
        raise CommandFailed(f"{variable} is not a PostgreSQL URL: postgresql://user:password@host:5432/database") from error
    primary = migration_primary_of(settings) if to_migrate else primary_of(settings)
    try:
        primary.check(settings.database_connect_timeout_ms)
    except ValueError as error:
        raise CommandFailed(f"{variable} {error}") from error
    try:
        await (await primary.connect(timeout_ms=settings.database_connect_timeout_ms)).close()
    except psycopg.Error as error:
        if unread := _within(error, PasswordUnavailable):
            raise CommandFailed(
                f"There is no password for PostgreSQL: {unread}. Correct LARDER_DATABASE_PASSWORD_FILE or _COMMAND."
            ) from error
        if isinstance(error, psycopg.errors.CantChangeRuntimeParam):
            raise CommandFailed(f"PostgreSQL at {place} ({variable}) cannot be used yet: {error}") from error
        raise CommandFailed(f"PostgreSQL at {place} ({variable}) {_connect_failure(str(error))}") from error


async def check_redis(settings: Settings) -> str | None:
    """Ping Redis once. Return a warning to print if it does not answer, since Larder serves without it.

    Raises:
        CommandFailed: a URL or a file is missing or malformed, the server refuses the user, or its certificate is not accepted,
            so waiting does not help.
    """
    if not settings.redis_url:
        raise CommandFailed("LARDER_REDIS_URL is not set. Name a Redis, or let `larder dev` start a private one.")
    options = redis_options(settings)
    tls = options.tls
    try:
        place = options.place
    except ValueError as error:
        raise CommandFailed(f"LARDER_REDIS_URL is not a Redis URL: {_REDIS_FORM}") from error
    try:
        tls.context()
    except OSError as error:
        files = ", ".join(file for file in (tls.ca_file, tls.cert_file, tls.key_file) if file)
        raise CommandFailed(
            f"The files for TLS to Redis ({files}) cannot be used ({error.strerror or error}). "
            "Correct LARDER_REDIS_CA_FILE, LARDER_REDIS_CERT_FILE and LARDER_REDIS_KEY_FILE."
        ) from error
    deadline_s = settings.redis_connect_timeout_ms / 1000
    try:
        if settings.cache_partitions > 1:  # then any node of a cluster will do, also a replica
            await map_of(options, URL_ADDRESS)
        else:
            opened = await RedisConnection.open(place, connect_timeout_s=deadline_s, timeout_s=deadline_s, scripts=())
            await opened.close()
            if opened.in_cluster:
                raise CommandFailed(
                    f"Redis at {place.name} is a node of a cluster, and LARDER_CACHE_PARTITIONS is 1. Set it to 64, or name a"
                    " Redis that is no cluster."
                )
    except StoreUnavailable as error:
        if failure := _redis_failure(error):
            raise CommandFailed(f"Redis at {place.name} (LARDER_REDIS_URL) {failure}") from error
        by_tls = " by TLS" if settings.redis_url.startswith("rediss") else ""
        return f"Redis at {place.name} does not answer{by_tls} ({error}): Larder serves from PostgreSQL until it does."
    finally:
        await place.aclose()
    return None


def _within(error: BaseException | None, kind: type[Kind] | tuple[type[Kind], ...]) -> Kind | None:
    """Return the first error of a kind among an error and its causes."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _redis_failure(error: StoreUnavailable) -> str | None:
    """Return what is wrong with Redis and what to do, or ``None`` if waiting may help."""
    # redis-py wraps the refusal of a user in another error on a Unix socket, and that of a certificate always.
    if refusal := _within(error, (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError)):
        return f"refuses the user or password ({refusal}). Correct the URL."
    if wrong := _within(error, WrongSentinel):
        return f"cannot be used: {wrong}. {_SENTINEL_CURE}"
    if unread := _within(error, PasswordUnavailable):
        return f"needs a password, and {unread}. Correct LARDER_REDIS_PASSWORD_FILE or _COMMAND."
    return _tls_failure(_within(error, ssl.SSLCertVerificationError))


def _tls_failure(error: ssl.SSLCertVerificationError | None) -> str | None:
    """Return what is wrong with TLS and what to do, or ``None`` if waiting may help, as it does with an expired certificate."""
    if error is None or error.verify_code in _TIMES:
        return None
    if error.verify_code in _NAMES:
        return (
            f"shows a certificate of another name ({error.verify_message}). "
            "Correct the URL's host, or set LARDER_REDIS_TLS_NAME to the certificate's name."
        )
    return (
        f"shows a certificate that no trusted authority signed ({error.verify_message}). "
        "Set LARDER_REDIS_CA_FILE to the certificate of the one that did."
    )


def _database_place(url: str) -> str:
    parts = conninfo_to_dict(url)
    host, port = parts.get("host") or "the local socket", parts.get("port") or 5432
    return f"{host}:{port}/{parts.get('dbname') or ''}"


def _connect_failure(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    reason = lines[0].rpartition("failed: ")[2] if lines else "no reason given"
    lowered = message.lower()
    for sign, sentence in _DATABASE_FAULTS:
        if sign in lowered:
            return f"{sentence[0]} ({reason}). {sentence[1]}"
    if "password" in lowered or "authentication" in lowered or "role" in lowered:
        return f"does not let us in ({reason}). Correct the user or the password in the URL."
    if "does not exist" in lowered:
        return f"has no such database ({reason}). Create it, or correct the URL."
    return f"cannot be reached ({reason}). Start it, or correct the URL."
