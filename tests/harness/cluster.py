"""The servers under test: one PostgreSQL, one Redis, several services, and a proxy on every connection between them."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from random import SystemRandom
from urllib.parse import parse_qs, urlsplit

import psycopg
import redis.asyncio

from app.cache.slot import FORMAT
from app.postgres.migrations import upgrade
from app.private_servers import PostgresServer, RedisServer, start_postgres, start_redis
from tests.harness.client import Endpoint, NoAnswerError
from tests.harness.proxy import HOST, Proxy, Target
from tests.harness.servers import know_history

ROOT = Path(__file__).parents[2]
NAMESPACE = "outages.1"
CACHE_NAME = f"{NAMESPACE}~{FORMAT}"
"""The name of the services' cache in Redis and in the audit rows."""
PROBE = "probe"
"""A product that is never written. If reading it is a hit, the cache is trusted."""
AUDIT_INTERVAL_S = 0.5
FENCE_TTL_S = 2.0
SETTINGS = {
    # Short, so that faults of a second or two pass them.
    "LARDER_DATABASE_STATEMENT_TIMEOUT_MS": "1000",
    "LARDER_DATABASE_LOCK_TIMEOUT_MS": "800",
    "LARDER_DATABASE_CONNECT_TIMEOUT_MS": "2000",
    "LARDER_REQUEST_TIMEOUT_MS": "10000",
}
_COMMAND = (sys.executable, "-c", "import sys; from app.cli import main; sys.exit(main(['serve']))")
_READY_S = 30.0
_AUDITS = "larder_cache_audits_total"
_NAMESPACE = re.compile(r'(?<=\{)namespace="[^"]*",?|,namespace="[^"]*"')
_POLL_S = 0.02
# A killed run loses its data anyway; a killed server does not: what it wrote is in the system's memory.
NO_DISK = {"fsync": "off", "full_page_writes": "off", "max_connections": "120"}


def postgres_target(server: PostgresServer) -> Target:
    """Return the socket that a private PostgreSQL listens on."""
    directory = parse_qs(urlsplit(server.url).query)["host"][0]
    return Target(path=Path(directory) / ".s.PGSQL.5432")


class Instance:
    """One service process and its two proxies."""

    def __init__(
        self,
        number: int,
        directory: Path,
        port: int,
        postgres: Proxy,
        redis_proxy: Proxy,
        *,
        redis_password: str,
        program: "Program",
    ) -> None:
        self.number = number
        self.endpoint = Endpoint(port)
        self.postgres = postgres
        self.redis = redis_proxy
        self.log = directory / f"instance-{number}.log"
        self.writing = 0
        """Number of writes under way, counted by the clients."""
        self._redis_password = redis_password
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def redis_url(self) -> str:
        """The URL of Redis through this instance's proxy."""
        return f"redis://:{self._redis_password}@{HOST}:{self.redis.port}/0"

    def database_url(self, database: str) -> str:
        """Return the URL of a database through this instance's proxy."""
        return f"postgresql://postgres@{HOST}:{self.postgres.port}/{database}?sslmode=disable"

    def spawn(self, database: str) -> None:
        """Start the process; it is not ready yet."""
        command, settings = self._program(self, database)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LARDER_")}
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment | dict(settings),
                cwd=ROOT,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the process lives."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    async def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self.send(signal.SIGKILL)
        await self._ended()

    async def terminate(self) -> None:
        """Send SIGTERM and wait for the end; send SIGKILL if it takes too long."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(15):
                await self._ended()
        except TimeoutError:
            await self.kill()

    async def restart(self, database: str) -> None:
        """Start the process, again and again until it serves: it does not start while PostgreSQL cannot be reached.

        Raises:
            TimeoutError: it does not serve in time.
        """
        end = time.monotonic() + _READY_S
        self.spawn(database)
        while not await self._ready():
            if time.monotonic() > end:
                raise TimeoutError(f"instance {self.number} does not come up: {self.tail()}")
            if self._process is not None and self._process.poll() is not None:
                self.spawn(database)
            await asyncio.sleep(_POLL_S)

    def tail(self) -> str:
        """Return the last lines of the instance's log."""
        return self.log.read_text(errors="replace")[-2_000:]

    async def metrics(self) -> dict[str, float]:
        """Return the instance's counters; empty if it does not answer."""
        try:
            answer = await self.endpoint.request("GET", "/metrics", timeout_s=3)
        except NoAnswerError:
            return {}
        found: dict[str, float] = {}
        for line in answer.body.decode().splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith("larder_cache_"):  # summed over the namespaces
                plain = _NAMESPACE.sub("", name).replace("{}", "")
                found[plain] = found.get(plain, 0.0) + float(value)
        return found

    async def hits(self, key: str) -> bool:
        """Read a product and return whether that was a hit."""
        with suppress(NoAnswerError):
            answer = await self.endpoint.request("GET", f"/products/{key}", timeout_s=5)
            return answer.header(b"cache-status") == "larder; hit"
        return False

    async def _ready(self) -> bool:
        with suppress(NoAnswerError):
            return (await self.endpoint.request("GET", "/readyz", timeout_s=3)).status == 200
        return False

    async def _ended(self) -> None:
        while self._process is not None and self._process.poll() is None:
            await asyncio.sleep(_POLL_S / 4)


Program = Callable[[Instance, str], tuple[Sequence[str], Mapping[str, str]]]
"""Returns the command and the environment of an instance on a database. The instance must answer ``GET /readyz``."""


def larder(instance: Instance, database: str) -> tuple[Sequence[str], Mapping[str, str]]:
    """Run Larder itself, with short deadlines: a ``Program``."""
    command, settings = larder_as_it_comes(instance, database)
    return command, {**settings, **SETTINGS}


def larder_as_it_comes(instance: Instance, database: str) -> tuple[Sequence[str], Mapping[str, str]]:
    """Run Larder itself, with its default deadlines: a ``Program``."""
    return _COMMAND, {
        "LARDER_ACCESS": "open",
        "LARDER_CACHE_NAMESPACE": NAMESPACE,
        "LARDER_HOST": HOST,
        "LARDER_PORT": str(instance.endpoint.port),
        "LARDER_DATABASE_URL": instance.database_url(database),
        "LARDER_REDIS_URL": instance.redis_url,
    }


class Cluster:
    """All servers of a test, running. ``start_cluster`` makes it."""

    def __init__(self, directory: Path, postgres: PostgresServer, redis_server: RedisServer, database: str) -> None:
        self.directory = directory
        self.postgres = postgres
        self.redis = redis_server
        self.database = database
        self.instances: list[Instance] = []

    @property
    def url(self) -> str:
        """The database's URL without a proxy."""
        return self.postgres.url_of(self.database)

    async def session(self) -> psycopg.AsyncConnection[psycopg.rows.TupleRow]:
        """Open a session of PostgreSQL without a proxy. Raises ``psycopg.Error``."""
        return await psycopg.AsyncConnection.connect(self.url, autocommit=True, connect_timeout=5)

    @asynccontextmanager
    async def redis_client(self) -> AsyncIterator["redis.asyncio.Redis"]:
        """Open a client of Redis without a proxy."""
        client = redis.asyncio.Redis.from_url(self.redis.url, socket_timeout=5)
        try:
            yield client
        finally:
            await client.aclose()

    async def auditor(self) -> Instance:
        """Return the instance that finishes the most audits within a few intervals."""
        before = [(await instance.metrics()).get(_AUDITS, 0.0) for instance in self.instances]
        await asyncio.sleep(3 * AUDIT_INTERVAL_S)
        after = [(await instance.metrics()).get(_AUDITS, 0.0) for instance in self.instances]
        gains = [new - old for new, old in zip(after, before, strict=True)]
        return self.instances[gains.index(max(gains))]

    async def until_trusted(self, deadline_s: float = 15.0, instances: Sequence[Instance] | None = None) -> float:
        """Wait until every instance (or these) answers the probe with a hit; return the seconds it took.

        Raises:
            TimeoutError: the cache is not trusted again in time.
        """
        began = time.monotonic()
        for instance in self.instances if instances is None else instances:
            while not await instance.hits(PROBE):
                if time.monotonic() > began + deadline_s:
                    raise TimeoutError(f"instance {instance.number} trusts no cache {deadline_s:g} s after the last fault")
                await asyncio.sleep(_POLL_S)
        return time.monotonic() - began


Prepare = Callable[[Cluster], Awaitable[None]]
"""Makes what a program needs in the database beside the products."""


@asynccontextmanager
async def start_cluster(
    directory: Path, *, instances: int = 3, program: Program = larder, revision: str = "head", prepare: Prepare | None = None
) -> AsyncIterator[Cluster]:
    """Start servers, proxies and services in ``directory``, empty but for the probe; stop them at the end.

    ``revision`` is where the migrations of an older ``program`` end. ``prepare`` runs after them, before the services start.
    """
    async with AsyncExitStack() as opened:
        postgres = await start_postgres(directory / "postgres", options=NO_DISK)
        opened.push_async_callback(postgres.stop)
        redis_server = await start_redis(directory / "redis")
        opened.push_async_callback(redis_server.stop)
        cluster = Cluster(directory, postgres, redis_server, "larder")
        await upgrade(cluster.url, revision)
        if revision == "head":
            await know_history(cluster.url, CACHE_NAME)  # or the first audit would wait for fences of an earlier one
        async with await cluster.session() as session:
            await session.execute("INSERT INTO products (id, name, price_cents) VALUES (%s, 'e0 probe', 0)", [PROBE])
        if prepare is not None:
            await prepare(cluster)
        for number in range(instances):
            cluster.instances.append(await opened.enter_async_context(an_instance(cluster, number, program=program)))
        await asyncio.gather(*(instance.restart(cluster.database) for instance in cluster.instances))
        yield cluster


@asynccontextmanager
async def an_instance(cluster: Cluster, number: int, *, program: Program = larder) -> AsyncIterator[Instance]:
    """Yield one more service on a cluster's servers, with proxies of its own. It is not started, but stopped at the end."""
    async with AsyncExitStack() as opened:
        proxies = Proxy(postgres_target(cluster.postgres)), Proxy(Target(path=cluster.redis.socket))
        for proxy in proxies:
            await proxy.open()
            opened.push_async_callback(proxy.aclose)
        port = opened.enter_context(_reserved_port())
        instance = Instance(number, cluster.directory, port, *proxies, redis_password=cluster.redis.password, program=program)
        opened.callback(instance.endpoint.close)
        opened.push_async_callback(instance.terminate)
        yield instance


@contextmanager
def _reserved_port() -> Iterator[int]:
    """Reserve a port for this cluster until the end, even while its service is down.

    The scenario's seed is not used, because two clusters of one seed would choose the same port. The port is below those of
    outgoing connections, so that no such connection takes it during a restart.
    """
    chance = SystemRandom()
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as reservation:
            port = chance.randrange(20_000, 32_000)
            try:
                reservation.bind((HOST, port))
            except OSError:
                continue
            # Bound without reuse: nobody else can have it. With reuse from here on: the service may listen beside us.
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            yield port
            return
