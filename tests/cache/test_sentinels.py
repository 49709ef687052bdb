"""Which address counts of what sentinels answer, and what is said when none does.

The sentinels are sockets that answer what a test wants.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from app.cache import Limits, open_caches
from app.cache.errors import StoreUnavailable, WrongSentinel
from app.cache.redis.places import Credentials, RedisPlace, place_of
from app.cache.redis.sentinel import SentinelUrl
from app.cache.redis.sentinel_watch import SentinelWatch
from app.cache.redis.tls import RedisTls
from app.cache.stats import Stats
from app.private_servers import RedisServer, start_redis
from app.private_servers.redis_server import free_ports
from app.products.source import PRODUCTS
from tests.harness.script import PATIENCE_S
from tests.limits import redis_options

A, B, C = ("a", 1), ("b", 1), ("c", 1)
UNKNOWN = b"*-1\r\n"
NO_ANSWER = b""
WRONG_PASSWORD = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
LOGIN_NEEDED = b"-NOAUTH Authentication required.\r\n"
NO_SENTINEL = b"-ERR unknown command 'SENTINEL', with args beginning with: 'GET-MASTER-ADDR-BY-NAME'\r\n"


def names(address: tuple[str, int]) -> bytes:
    """The answer of a sentinel that names an address."""
    host, port = address
    return b"*2\r\n$%d\r\n%s\r\n$%d\r\n%d\r\n" % (len(host), host.encode(), len(str(port)), port)


class FakeSentinels:
    """Servers that give one answer to each question, and OK to anything else. An empty answer is never given."""

    def __init__(self, answers: Sequence[bytes]) -> None:
        self.answers = list(answers)
        self.ports: list[int] = []
        self.questions = 0
        self.logins: list[bytes] = []
        self.connections: list[asyncio.Task[None]] = []

    def serve(self, number: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if (own := asyncio.current_task()) is not None:
                self.connections.append(own)
            while command := await _command(reader):
                if command[0] == b"AUTH":
                    self.logins.append(command[-1])
                question = command[0] == b"SENTINEL"
                self.questions += question
                answer = self.answers[number]
                writer.write(answer if question or answer == WRONG_PASSWORD else b"+OK\r\n")
            writer.close()
            await writer.wait_closed()

        return serve

    @asynccontextmanager
    async def place(self, credentials: Credentials | None = None, timeout_s: float = 5.0) -> AsyncIterator[RedisPlace]:
        """Yield the place that a URL of these sentinels names."""
        places = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        place = place_of(
            f"sentinel://:of-the-data@{places}/0?service=larder",
            RedisTls(),
            credentials or Credentials(),
            timeout_s=timeout_s,
            connect_timeout_s=5.0,
        )
        try:
            yield place
        finally:
            await place.aclose()


async def _command(reader: asyncio.StreamReader) -> list[bytes]:
    head = await reader.readline()
    words = []
    for _ in range(int(head[1:] or b"0")):
        size = int((await reader.readline())[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words


@asynccontextmanager
async def sentinels(*answers: bytes) -> AsyncIterator[FakeSentinels]:
    """Start a sentinel for each answer."""
    fake = FakeSentinels(answers)
    async with AsyncExitStack() as opened:
        for number in range(len(answers)):
            server = await asyncio.start_server(fake.serve(number), "127.0.0.1", 0)
            opened.push_async_callback(server.wait_closed)
            opened.callback(server.close)
            fake.ports.append(server.sockets[0].getsockname()[1])
        yield fake
        await asyncio.gather(*fake.connections, return_exceptions=True)


@pytest.fixture
async def data_server(servers_directory: Path) -> AsyncIterator[RedisServer]:
    """A data server with a port, as sentinels name one."""
    server = await start_redis(servers_directory / f"redis-{uuid4().hex[:8]}", ports=free_ports())
    yield server
    await server.stop()


@pytest.mark.parametrize(
    ("answers", "counts"),
    [
        ([names(A)], "a:1"),
        ([names(A), names(A), names(B)], "a:1"),
        ([names(B), names(A), names(A)], "a:1"),
        ([names(A), names(A), NO_ANSWER], "a:1"),
        ([names(A), NO_ANSWER, NO_ANSWER], "a:1"),
        ([names(A), names(B), NO_ANSWER], ""),
        ([names(A), names(B), names(C)], ""),
        ([names(A), names(A), UNKNOWN, UNKNOWN], ""),
        ([names(A), UNKNOWN, UNKNOWN], ""),
        ([NO_ANSWER, NO_ANSWER, NO_ANSWER], ""),
    ],
)
async def test_address_that_most_answers_give(answers: list[bytes], counts: str) -> None:
    """More than half of the answers must agree, wherever the first one comes from; a tie and silence name nobody."""
    async with sentinels(*answers) as fake, fake.place(timeout_s=0.2 if NO_ANSWER in answers else 5.0) as place:
        assert await place.named() == counts


@pytest.mark.parametrize(
    ("answers", "kind", "says"),
    [
        ([UNKNOWN] * 3, WrongSentinel, "no sentinel knows the service 'larder'"),
        ([WRONG_PASSWORD] * 2, WrongSentinel, "refuses the user or password; the data server's password is not shown"),
        ([LOGIN_NEEDED] * 2, WrongSentinel, "refuses the user or password; the data server's password is not shown"),
        ([NO_SENTINEL] * 2, WrongSentinel, "it is a data server, not a sentinel"),
        ([names(A), names(A), names(B), names(B)], StoreUnavailable, r"the sentinels disagree \(2 name a:1, 2 name b:1\)"),
        ([names(A), UNKNOWN], StoreUnavailable, r"the sentinels disagree \(1 names a:1, 1 names nothing\)"),
    ],
)
async def test_reason_for_having_no_address(answers: list[bytes], kind: type[StoreUnavailable], says: str) -> None:
    """Each mistake has a sentence of its own; only what waiting does not cure is called wrong."""
    credentials = Credentials(sentinel_password="word")
    async with sentinels(*answers) as fake, fake.place(credentials) as place:
        with pytest.raises(StoreUnavailable, match=says) as raised:
            await place.connection(await place.passwords())
        assert type(raised.value) is kind


async def test_sentinel_gets_its_own_password_only() -> None:
    """The data server's password is never sent to a sentinel; questions that come together are one; connections are kept."""
    async with sentinels(names(A), names(A), names(A)) as fake:
        async with fake.place() as place:
            await asyncio.gather(*(place.named() for _ in range(5)))
            assert fake.logins == []
            assert fake.questions == 3
        async with fake.place(Credentials(sentinel_password="word")) as place:
            for _ in range(3):
                await place.named()
            assert fake.logins == [b"word"] * 3
            connection = await place.connection(await place.passwords())
            assert (connection.password, connection.host, connection.port) == ("of-the-data", *A)  # type: ignore[attr-defined]


async def test_master_that_most_sentinels_do_not_name_is_left(data_server: RedisServer) -> None:
    """Every link leaves it; without an address that counts, and while most name it, it is kept."""
    here, there = names(("127.0.0.1", data_server.port)), names(("127.0.0.1", 1))
    async with sentinels(here, here, here) as fake:
        places = ",".join(f"127.0.0.1:{port}" for port in fake.ports)
        options = redis_options(f"sentinel://:{data_server.password}@{places}/0?service=larder", retry_ms=600_000)
        links = [options.link(), options.link()]
        for link in links:
            await link.start()
        watch = SentinelWatch(options.place, lambda: links, 1.0, Stats())
        for fake.answers in ([here, here, there], [here, there, UNKNOWN]):
            await watch.look()
            assert all(link.up for link in links)
        fake.answers = [there, here, there]
        await watch.look()
        assert not any(link.up for link in links)
        with pytest.raises(StoreUnavailable, match=r"most sentinels name 127\.0\.0\.1:1 as the master"):
            links[0].connection()
        for link in links:
            await link.close()
        await options.place.aclose()


async def test_watch_survives_what_it_did_not_expect(caplog: pytest.LogCaptureFixture) -> None:
    """It is counted each time and logged once, and the next question is asked as before."""
    caplog.set_level(logging.WARNING, "app.cache")  # which the simulation silences
    broken = True

    async def read_password() -> str:
        if broken:
            raise OSError("no such file")
        return "word"

    stats = Stats()
    async with sentinels(names(A)) as fake, fake.place(Credentials(read_sentinel_password=read_password)) as place:
        watching = asyncio.create_task(SentinelWatch(place, list, 0.001, stats).run())
        async with asyncio.timeout(PATIENCE_S):
            while stats.unexpected < 3:
                await asyncio.sleep(0.001)
            broken = False
            while not fake.questions:
                await asyncio.sleep(0.001)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert len([record for record in caplog.records if "no such file" in record.getMessage()]) == 1


async def test_caches_watch_the_sentinels(data_server: RedisServer, database_url: str, namespace: str) -> None:
    """A process asks in its background, and leaves the old master without a call that fails there."""
    async with sentinels(names(("127.0.0.1", data_server.port))) as fake:
        options = redis_options(
            f"sentinel://:{data_server.password}@127.0.0.1:{fake.ports[0]}/0?service=larder", retry_ms=600_000
        )
        limits = Limits(audit_interval_ms=100)
        async with open_caches(database_url, options, [replace(PRODUCTS, namespace=namespace)], limits=limits) as caches:
            links = caches.store.all
            assert all(link.up for link in links)
            fake.answers = [names(A)]
            async with asyncio.timeout(PATIENCE_S):
                while any(link.up for link in links):
                    await asyncio.sleep(0.01)


async def test_caches_watch_links_that_are_made_later(data_server: RedisServer, database_url: str, namespace: str) -> None:
    """A divided namespace has no link while no master is known. Those that it makes then leave an old master, too."""
    async with sentinels(UNKNOWN) as fake:
        options = redis_options(f"sentinel://:{data_server.password}@127.0.0.1:{fake.ports[0]}/0?service=larder", retry_ms=20)
        limits = Limits(audit_interval_ms=100, cache_partitions=2)
        async with (
            asyncio.timeout(PATIENCE_S),
            open_caches(database_url, options, [replace(PRODUCTS, namespace=namespace)], limits=limits) as caches,
        ):
            assert not caches.store.all
            fake.answers = [names(("127.0.0.1", data_server.port))]
            while not caches.store.all or not all(link.up for link in caches.store.all):
                await asyncio.sleep(0.01)
            links = caches.store.all
            fake.answers = [names(A)]
            while any(link.up for link in links):
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("sentinel://h1,h2:5/0?service=x", SentinelUrl([("h1", 26379), ("h2", 5)], "x", 0, "", "", speaks_tls=False)),
        ("rediss+sentinel://u%40:p%2F@[::1]:7/3?service=x", SentinelUrl([("::1", 7)], "x", 3, "u@", "p/", speaks_tls=True)),
    ],
)
def test_url_of_sentinels(url: str, read: SentinelUrl) -> None:
    """Ports have a default, user and password are unquoted, and the number of the database counts."""
    assert SentinelUrl.parse(url) == read


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://h1/0",
        "sentinel://h1/0?service=",
        "sentinel://h1/0?service=a&service=b",
        "sentinel://h1/0?service=a&role=replica",
        "sentinel://h1/x?service=a",
        "sentinel://h1,,h2/0?service=a",
        "sentinel://h1:x/0?service=a",
    ],
)
def test_url_that_names_no_sentinels(url: str) -> None:
    """A URL that could mean something else is refused, with the form that it should have."""
    with pytest.raises(ValueError, match=r"it must have the form sentinel://|Port could not be cast"):
        SentinelUrl.parse(url)
