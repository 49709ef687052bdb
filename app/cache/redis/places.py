"""Where Redis is: at a URL, or where most sentinels say. A place makes the connections of redis-py, which are not open yet."""

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from redis.asyncio.connection import AbstractConnection
from typing_extensions import override

from .sentinel import SCHEMES, Sentinels, SentinelUrl, show
from .tls import RedisTls, pool_of

ReadPassword = Callable[[], Awaitable[str]]
"""Returns the present password. It limits its own duration."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a URL does not say about who connects.

    Attributes:
        read_password: returns the password of the data server; without it, the URL has it.
        sentinel_username: the user at the sentinels, if they have users.
        sentinel_password: the password of the sentinels. That of the data server is never shown to them.
        read_sentinel_password: returns it instead.
    """

    read_password: ReadPassword | None = None
    sentinel_username: str = ""
    sentinel_password: str = ""
    read_sentinel_password: ReadPassword | None = None


@dataclass(frozen=True, slots=True)
class Passwords:
    """The passwords for one connection; ``None`` where no function returns it."""

    data: str | None = None
    sentinel: str | None = None


class RedisPlace(Protocol):
    """Where the data server is."""

    name: str
    """What an operator calls it, without a password."""
    has_sentinels: bool

    @abstractmethod
    async def passwords(self) -> Passwords:
        """Read the passwords that a connection needs. This takes as long as they need, and has no part in other deadlines."""

    @abstractmethod
    async def connection(self, passwords: Passwords) -> AbstractConnection:
        """Find the server and return a connection to it that is not open yet. Raises ``StoreUnavailable``."""

    @abstractmethod
    async def named(self) -> str:
        """Return the address that most sentinels give now; empty if none counts, or if there are no sentinels."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections to sentinels."""


def place_of(url: str, tls: RedisTls, credentials: Credentials, *, timeout_s: float, connect_timeout_s: float) -> RedisPlace:
    """Return the place that a URL names. Raises ``ValueError`` if it names none."""
    if url.partition("://")[0] in SCHEMES:
        return _SentinelPlace(SentinelUrl.parse(url), tls, credentials, timeout_s, connect_timeout_s)
    return _FixedPlace(url, tls, credentials, connect_timeout_s)


def address_of(connection: AbstractConnection) -> str:
    """Return the address of a connection, as ``RedisPlace.named`` spells it."""
    host, port = getattr(connection, "host", ""), getattr(connection, "port", 0)
    return show((host, port)) if host else ""


class _FixedPlace(RedisPlace):
    has_sentinels = False

    def __init__(self, url: str, tls: RedisTls, credentials: Credentials, connect_timeout_s: float) -> None:
        self._pool = pool_of(url, tls, connect_timeout_s=connect_timeout_s)
        self._read_password = credentials.read_password
        place = self._pool.connection_kwargs
        self.name = place.get("path") or show((place.get("host", "localhost"), place.get("port", 6379)))

    @override
    async def passwords(self) -> Passwords:
        return Passwords(await _read(self._read_password))

    @override
    async def connection(self, passwords: Passwords) -> AbstractConnection:
        raw: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        if passwords.data is not None:
            raw.password = passwords.data
        return raw

    @override
    async def named(self) -> str:
        return ""

    @override
    async def aclose(self) -> None:
        pass


class _SentinelPlace(RedisPlace):
    has_sentinels = True

    def __init__(
        self, url: SentinelUrl, tls: RedisTls, credentials: Credentials, timeout_s: float, connect_timeout_s: float
    ) -> None:
        self._url = url
        self._tls = tls
        self._credentials = credentials
        self._connect_timeout_s = connect_timeout_s
        self._sentinels = Sentinels(url, tls, username=credentials.sentinel_username, timeout_s=timeout_s)
        self.name = f"{', '.join(map(show, url.sentinels))}, service {url.service}"

    @override
    async def passwords(self) -> Passwords:
        data, sentinel = await asyncio.gather(_read(self._credentials.read_password), self._sentinel_password())
        return Passwords(data, sentinel)

    @override
    async def connection(self, passwords: Passwords) -> AbstractConnection:
        master = (await self._sentinels.ask(passwords.sentinel)).master()
        url = f"{'rediss' if self._url.speaks_tls else 'redis'}://{show(master)}/{self._url.database}"
        pool = pool_of(url, self._tls, connect_timeout_s=self._connect_timeout_s)
        raw: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        raw.username = self._url.username or None
        raw.password = self._url.password or None if passwords.data is None else passwords.data
        return raw

    @override
    async def named(self) -> str:
        password = None if self._sentinels.connected else await self._sentinel_password()
        address = (await self._sentinels.ask(password)).address
        return "" if address is None else show(address)

    async def _sentinel_password(self) -> str | None:
        read_password = self._credentials.read_sentinel_password
        return await read_password() if read_password else self._credentials.sentinel_password or None

    @override
    async def aclose(self) -> None:
        await self._sentinels.aclose()


async def _read(read_password: ReadPassword | None) -> str | None:
    return None if read_password is None else await read_password()
