"""A Larder of two workers with servers of its own and steady clients, and the outages that its alerts are about."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import psycopg

from app.access.key_file import file_entry
from app.access.keys import id_of, make_key
from app.cache.slot import FORMAT
from app.private_servers import PostgresServer, RedisServer
from tests.cli.larder_process import Larder, ServingLarder

NAMESPACE = "monitoring.1"
_CONNECTION_LIMIT = 40
_PAUSE_S = 0.05
Repeated = Callable[[], Awaitable[object]]


class World:
    """The service and its clients. The keys are in a file, so that they are valid while PostgreSQL is away."""

    def __init__(self, larder: Larder, postgres: PostgresServer, redis: RedisServer) -> None:
        self.larder = larder
        self.postgres = postgres
        self.redis = redis
        self.keys = {client: make_key() for client in ("prometheus", "till", "crawler")}
        scopes = {"prometheus": ["operate"], "till": ["products:read", "products:write", "stock:adjust"]}
        self.key_file = larder.directory / "keys.toml"
        self.key_file.write_text(
            "".join(
                file_entry(
                    {
                        "id": id_of(key),
                        "client": client,
                        "scopes": scopes.get(client, ["products:read"]),
                        "sha256": digest.hex(),
                        "rate_per_s": 1.0 if client == "crawler" else None,
                    }
                )
                for client, (key, digest) in self.keys.items()
            )
        )
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.serving: ServingLarder | None = None
        self._running = AsyncExitStack()

    @property
    def settings(self) -> Mapping[str, str]:
        """The settings of the service."""
        return {
            "LARDER_DATABASE_URL": self.postgres.url,
            "LARDER_REDIS_URL": self.redis.url,
            "LARDER_CACHE_NAMESPACE": NAMESPACE,
            "LARDER_ACCESS": "keys",
            "LARDER_KEYS_FILE": str(self.key_file),
            "LARDER_PORT": str(self.port),
            "LARDER_WORKERS": "2",
            "LARDER_CONNECTION_LIMIT": str(_CONNECTION_LIMIT),
        }

    async def start(self) -> None:
        """Start the service, and return when it serves."""
        self.serving = await self._running.enter_async_context(self.larder.serving("serve", **self.settings))
        # An outage logs more than a pipe holds, and the service would stand still when it is full.
        await self._running.enter_async_context(_copied(self.serving.process.stdout, self.larder.directory / "service.log"))

    async def stop(self) -> None:
        """Stop the service."""
        await self._running.aclose()
        self._running = AsyncExitStack()

    def workers(self) -> list[psutil.Process]:
        """Return the service's worker processes, the oldest first."""
        assert self.serving is not None
        return sorted(psutil.Process(self.serving.process.pid).children(), key=lambda process: process.create_time())

    def client(self, name: str = "") -> httpx.AsyncClient:
        """Return a client with a key, or without one."""
        headers = {"Authorization": f"Bearer {self.keys[name][0]}"} if name else {}
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=3)

    @asynccontextmanager
    async def traffic(self) -> AsyncIterator[None]:
        """Read, list and write products all the time, whatever the answers are."""
        async with AsyncExitStack() as opened:
            for number in range(4):
                client = await opened.enter_async_context(self.client("till"))
                await client.put(f"/products/p{number}", json={"name": "Tray", "price_cents": 1})
                for call in (
                    lambda client=client, number=number: client.get(f"/products/p{number}"),
                    lambda client=client: client.get("/products"),
                ):
                    await opened.enter_async_context(_repeated(call))
            await opened.enter_async_context(
                _repeated(lambda: client.put("/products/w", json={"name": "Tray", "price_cents": 1}))
            )
            yield


@asynccontextmanager
async def _beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Let something run until the context ends."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def _repeated(call: Repeated) -> AsyncIterator[None]:
    """Call something again and again, with a pause, and pass over failed requests."""

    async def forever() -> None:
        while True:
            with suppress(httpx.TransportError, OSError):
                await call()
            await asyncio.sleep(_PAUSE_S)

    async with _beside(forever()):
        yield


@asynccontextmanager
async def _copied(output: asyncio.StreamReader | None, path: Path) -> AsyncIterator[None]:
    """Copy what a process says into a file."""
    assert output is not None

    async def copy() -> None:
        with path.open("ab", buffering=0) as file:
            while chunk := await output.read(1 << 16):
                file.write(chunk)

    async with _beside(copy()):
        yield


@asynccontextmanager
async def redis_stopped(world: World) -> AsyncIterator[None]:
    """Redis is killed, and starts again empty."""
    await world.redis.kill()
    yield
    await world.redis.restart()


@asynccontextmanager
async def postgres_stopped(world: World) -> AsyncIterator[None]:
    """PostgreSQL is killed, and starts again."""
    await world.postgres.kill()
    yield
    await world.postgres.restart()


@asynccontextmanager
async def namespace_barred(world: World) -> AsyncIterator[None]:
    """An operator bars the service's namespace, so that no audit sets its fence."""
    for action in ("bar", "unbar"):
        status, said = await world.larder.run("namespace", action, f"{NAMESPACE}~{FORMAT}", **world.settings)
        assert status == 0, said
        if action == "bar":
            yield


@asynccontextmanager
async def worker_killed(world: World) -> AsyncIterator[None]:
    """A worker gets SIGKILL; the parent replaces it."""
    world.workers()[-1].kill()
    yield


@asynccontextmanager
async def worker_stopped(world: World) -> AsyncIterator[None]:
    """A worker hangs."""
    worker = world.workers()[-1]
    worker.suspend()
    yield
    worker.resume()


@asynccontextmanager
async def processor_taken_away(world: World) -> AsyncIterator[None]:
    """The workers run a quarter of the time only, in pieces of 50 ms."""

    async def pulse() -> None:
        for worker in world.workers():
            worker.suspend()
        try:
            await asyncio.sleep(0.15)
        finally:
            for worker in world.workers():
                worker.resume()

    async with _repeated(pulse):
        yield


@asynccontextmanager
async def caller_without_key(world: World) -> AsyncIterator[None]:
    """A client sends 15 requests per second without a key."""
    async with world.client() as client, _repeated(lambda: client.get("/products/p1")):
        yield


@asynccontextmanager
async def client_beyond_rate(world: World) -> AsyncIterator[None]:
    """A client that may send one request per second sends 15."""
    async with world.client("crawler") as client, _repeated(lambda: client.get("/products/p1")):
        yield


@asynccontextmanager
async def connections_opened(world: World) -> AsyncIterator[None]:
    """Somebody opens connections and leaves them open."""
    writers: list[asyncio.StreamWriter] = []

    async def one_more() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writers.append(writer)

    async with _repeated(one_more), _repeated(one_more), _repeated(one_more):
        yield
    for writer in writers:
        writer.transport.abort()


@asynccontextmanager
async def rows_changed_by_sql(world: World) -> AsyncIterator[None]:
    """Somebody changes a cached product by SQL."""
    async with await psycopg.AsyncConnection.connect(world.postgres.url, autocommit=True) as connection:
        await connection.execute("UPDATE products SET name = 'Tray, changed by hand' WHERE id = 'p1'")
    yield


@asynccontextmanager
async def service_killed(world: World) -> AsyncIterator[None]:
    """All processes of the service are killed; somebody starts it again."""
    assert world.serving is not None
    workers = world.workers()
    await world.serving.end(signal.SIGKILL)
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.kill()
    await world.stop()
    yield
    await world.start()


@dataclass(frozen=True, slots=True)
class Outage:
    """Something that goes wrong, and the alerts that must and may fire."""

    run: Callable[[World], AbstractAsyncContextManager[None]]
    must: frozenset[str]
    may: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()
    """Queries of the dashboard that have nothing to show meanwhile."""

    @property
    def name(self) -> str:
        """The outage's name for people."""
        return self.run.__name__.replace("_", " ")


def _outage(
    run: Callable[[World], AbstractAsyncContextManager[None]],
    *must: str,
    may: tuple[str, ...] = (),
    silent: tuple[str, ...] = (),
) -> Outage:
    return Outage(run, frozenset(must), frozenset(may), frozenset(silent))


OUTAGES = (
    _outage(redis_stopped, "LarderRedisAway"),
    # No read is answered, so there is nothing to divide by.
    _outage(postgres_stopped, "LarderAuditsFail", "LarderErrors", silent=("Hit ratio",)),
    _outage(namespace_barred, "LarderCacheUntrusted"),
    _outage(processor_taken_away, "LarderOverloaded"),
    _outage(caller_without_key, "LarderCallersRefused"),
    _outage(client_beyond_rate, "LarderClientLimited"),
    _outage(connections_opened, "LarderConnectionsFull"),
    # Requests to the worker that hangs, of which some are Prometheus's own, get no answer.
    _outage(worker_stopped, "LarderWorkerMissing", may=("LarderDown",)),
    _outage(rows_changed_by_sql, "LarderRowsChangedElsewhere"),
    # A busy machine may need longer than `for` permits, at this speed, to start the next worker.
    _outage(worker_killed, "LarderWorkerDied", may=("LarderWorkerMissing",)),
    _outage(service_killed, "LarderDown", silent=("",)),  # nothing answers
)
SHORT = tuple(outage for outage in OUTAGES if outage.run in (redis_stopped, postgres_stopped))
"""The outages of the servers that Larder uses."""
ALL_BUT_DEFECTS = frozenset[str]().union(*(outage.must for outage in OUTAGES))


@asynccontextmanager
async def open_world(larder: Larder, postgres: PostgresServer, redis: RedisServer) -> AsyncIterator[World]:
    """Start the service and its clients; stop them at the end."""
    world = World(larder, postgres, redis)
    await world.start()
    try:
        async with world.traffic():
            yield world
    finally:
        await world.stop()


def directory_for(larder: Larder) -> Path:
    """Return a directory for Prometheus, which is removed with the session's servers."""
    directory = larder.directory / "prometheus"
    directory.mkdir()
    return directory
