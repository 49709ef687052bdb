"""The sentinels of a Redis with failover: their URL, and the address of the master that most of them give.

All sentinels are asked at once. The address counts that more than half of the answers give, and not the first one: a sentinel
that was cut off goes on naming the old master. A wrong address could never make an old value valid, because the fence names its
server; it would only make all instances read the database for a while.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from ..errors import StoreUnavailable, WrongSentinel
from .tls import RedisTls, pool_of

PORT = 26379
SCHEMES = ("sentinel", "rediss+sentinel")
Address = tuple[str, int]

_FORM = "sentinel://user:password@host:26379,host:26379,host:26379/0?service=name"


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """What a URL says, e.g. ``sentinel://user:password@h1:26379,h2:26379/0?service=larder``.

    User and password are those of the data server. With ``rediss+sentinel`` TLS is spoken to the sentinels and to the data
    server.
    """

    sentinels: Sequence[Address]
    service: str
    database: int
    username: str
    password: str
    speaks_tls: bool

    @classmethod
    def parse(cls, url: str) -> "SentinelUrl":
        """Read a URL. Raises ``ValueError``."""
        parts = urlsplit(url)
        login, _, places = parts.netloc.rpartition("@")
        username, _, password = login.partition(":")
        options = parse_qs(parts.query, strict_parsing=bool(parts.query), keep_blank_values=True)
        services = options.pop("service", [])
        database = parts.path.removeprefix("/") or "0"
        sentinels = [_address(place) for place in places.split(",")]
        if parts.scheme not in SCHEMES or len(services) != 1 or not services[0] or options or not database.isdecimal():
            raise ValueError(f"it must have the form {_FORM}")
        return cls(
            sentinels, services[0], int(database), unquote(username), unquote(password), parts.scheme.startswith("rediss")
        )


def _address(place: str) -> Address:
    parts = urlsplit(f"//{place}")
    if not parts.hostname:
        raise ValueError(f"it must have the form {_FORM}")
    return parts.hostname, parts.port or PORT


@dataclass(frozen=True, slots=True)
class Answers:
    """What the sentinels said.

    Attributes:
        service: the service that they were asked for.
        addresses: what each sentinel that answered gave; ``None`` if it does not know the service.
        failures: why each of the others gave no answer.
    """

    service: str
    addresses: Mapping[str, Address | None]
    failures: Mapping[str, Exception]

    @property
    def address(self) -> Address | None:
        """The address that more than half of the answers give."""
        counts = Counter(self.addresses.values())
        for address, count in counts.most_common(1):
            if 2 * count > len(self.addresses):
                return address
        return None

    def master(self) -> Address:
        """Return the address that counts.

        Raises:
            WrongSentinel: no sentinel knows the service, or lets us in, or is a sentinel.
            StoreUnavailable: no address counts at present.
        """
        if self.address is not None:
            return self.address
        if not self.addresses:
            reasons = "; ".join(f"{name}: {str(failure) or type(failure).__name__}" for name, failure in self.failures.items())
            wrong = any(isinstance(failure, WrongSentinel) for failure in self.failures.values())
            raise (WrongSentinel if wrong else StoreUnavailable)(f"no sentinel names the master ({reasons})")
        counts = Counter(self.addresses.values())
        if set(counts) == {None}:
            raise WrongSentinel(f"no sentinel knows the service {self.service!r}")
        said = [f"{count} name{'s' if count == 1 else ''} {show(address)}" for address, count in counts.most_common()]
        raise StoreUnavailable(f"the sentinels disagree ({', '.join(said)})")


def show(address: Address | None) -> str:
    """Return an address as text."""
    if address is None:
        return "nothing"
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Sentinels:
    """The sentinels of a URL, with a connection to each that is kept while it is good."""

    def __init__(self, url: SentinelUrl, tls: RedisTls, *, username: str, timeout_s: float) -> None:
        self._service = url.service
        self._sentinels = [
            # The certificate of a sentinel shows the name by which the URL calls it.
            _Sentinel(address, replace(tls, name=""), username, timeout_s, speaks_tls=url.speaks_tls)
            for address in url.sentinels
        ]
        self._asking: asyncio.Task[Answers] | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection to each sentinel, so that asking them needs no password."""
        return all(sentinel.connected for sentinel in self._sentinels)

    async def ask(self, password: str | None) -> Answers:
        """Ask all sentinels at once where the master is. Calls that come together share the question."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(password))
        return await asyncio.shield(self._asking)

    async def _ask(self, password: str | None) -> Answers:
        try:
            said = await asyncio.gather(
                *(sentinel.ask(self._service, password) for sentinel in self._sentinels), return_exceptions=True
            )
        finally:
            self._asking = None
        addresses: dict[str, Address | None] = {}
        failures: dict[str, Exception] = {}
        for sentinel, answer in zip(self._sentinels, said, strict=True):
            if isinstance(answer, Exception):
                failures[sentinel.name] = answer
            elif isinstance(answer, BaseException):
                raise answer
            else:
                addresses[sentinel.name] = answer
        return Answers(self._service, addresses, failures)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        for sentinel in self._sentinels:
            await sentinel.aclose()


class _Sentinel:
    def __init__(self, address: Address, tls: RedisTls, username: str, timeout_s: float, *, speaks_tls: bool) -> None:
        self.name = show(address)
        self._pool = pool_of(f"{'rediss' if speaks_tls else 'redis'}://{self.name}", tls, connect_timeout_s=timeout_s)
        self._username = username
        self._timeout_s = timeout_s
        self._connection: AbstractConnection | None = None

    @property
    def connected(self) -> bool:
        return self._connection is not None

    async def ask(self, service: str, password: str | None) -> Address | None:
        """Return the address of the service's master, or ``None`` if the service is unknown.

        Raises:
            WrongSentinel: it does not let us in, or is no sentinel.
            Exception: there was no answer in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._connection is None:
                    self._connection = await self._connect(password)
                await self._connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
                answer: Any = await self._connection.read_response(disable_decoding=True)
        except TimeoutError as error:
            await self.aclose()
            raise StoreUnavailable("it did not answer in time") from error
        except BaseException as error:
            await self.aclose()
            if isinstance(error, AuthenticationError | NoPermissionError):
                raise WrongSentinel(
                    "it refuses the user or password; the data server's password is not shown to sentinels"
                ) from error
            if isinstance(error, ResponseError) and "unknown command" in str(error).lower():
                raise WrongSentinel("it is a data server, not a sentinel") from error
            raise
        return None if answer is None else (answer[0].decode(), int(answer[1]))

    async def _connect(self, password: str | None) -> AbstractConnection:
        raw: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        raw.username, raw.password = self._username or None, password
        try:
            await raw.connect()  # type: ignore[no-untyped-call]  # the same
        except BaseException:
            await _close(raw)
            raise
        return raw

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await _close(connection)


async def _close(connection: AbstractConnection) -> None:
    with suppress(Exception):  # it is given up in any case
        await connection.disconnect(nowait=True)
