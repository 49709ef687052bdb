"""The rules for the URLs of the servers: what is wrong with one is a sentence, which never shows a part of a password."""

import re
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

_REDIS_FORM = "redis://:password@host:6379/0"
_DATABASE_FORM = "postgresql://user:password@host:5432/database"
_SENTINEL_SCHEMES = ("sentinel", "rediss+sentinel")
_SSL_OPTIONS = "must have no ssl_ options: certificates are always verified, by LARDER_REDIS_CA_FILE"
_REDIS_SCHEMES = ("redis", "rediss", "unix")
_REDIS_OPTIONS = frozenset({"db", "username", "password", "client_name"})
_PORTS = re.compile(r"[^:]*(:\d*)?(,[^:]*(:\d*)?)*|.*\].*")
_ENCODE = "a / # ? or @ in the user or the password must be written as %2F, %23, %3F or %40"


def redis_url_fault(url: str) -> str | None:
    """Return what is wrong with the URL of a Redis, or ``None``. A URL of sentinels is read by ``app.cache.redis.sentinel``."""
    if url.partition("://")[0] in _SENTINEL_SCHEMES:
        return _SSL_OPTIONS if "ssl_" in url.partition("?")[2] else None
    if url.partition("://")[0] not in _REDIS_SCHEMES or "://" not in url:
        return f"is not a Redis URL: {_REDIS_FORM}"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        return f"is not a Redis URL: {_REDIS_FORM}; {_ENCODE}"
    behind = parts.path + parts.query
    if "#" in url or ("@" in behind and "@" not in parts.netloc and parts.netloc):
        return f"has a user or a password that cannot be read: {_ENCODE}"
    if parts.scheme == "unix":
        return "names no socket: unix:///path/to/redis.sock?db=0" if not parts.path else _option_fault(parts)
    return f"names no host and port: {_REDIS_FORM}" if not host or port == 0 else _option_fault(parts)


def _option_fault(parts: SplitResult) -> str | None:
    options = parse_qsl(parts.query, keep_blank_values=True)
    if any(name.startswith("ssl_") for name, _ in options):
        return _SSL_OPTIONS
    if unknown := sorted({name for name, _ in options} - _REDIS_OPTIONS):
        return (
            f"has options that Larder does not take ({', '.join(unknown)}); deadlines and certificates are set by"
            " LARDER_REDIS_* variables"
        )
    numbers = [value for name, value in options if name == "db"]
    if parts.scheme != "unix" and (path := unquote(parts.path).strip("/")):
        numbers.append(path)
    sound = all(number.isascii() and number.isdigit() for number in numbers)
    return None if sound else f"must end in the number of a database: {_REDIS_FORM}"


def database_url_fault(url: str) -> str | None:
    """Return what is wrong with the URL of a PostgreSQL as far as its parts can be told apart, or ``None``."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"postgresql", "postgres"}:
        # libpq also takes `name=value` pairs.
        sound = not separator and "=" in url
        return None if sound else f"is not a PostgreSQL URL: {_DATABASE_FORM}"
    authority, _, behind = rest.partition("/")
    authority = authority.partition("?")[0] if "@" not in authority.partition("?")[2] else authority
    path = behind.partition("?")[0]
    if authority.count("@") > 1 or ("@" in path and "@" not in authority):
        return f"has a user or a password that cannot be read: {_ENCODE}"
    if not _PORTS.fullmatch(authority.rpartition("@")[2]):
        return f"has a port that is no number: {_DATABASE_FORM}; {_ENCODE}"
    return None
