"""Private servers and a service for one measurement; PostgreSQL is as durable as it is shipped."""

import asyncio
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from app.postgres.migrations import upgrade
from app.private_servers import PostgresServer, RedisServer, free_ports, start_postgres, start_redis
from tests.harness.client import Endpoint, NoAnswerError
from tests.harness.cluster import ROOT
from tests.harness.proxy import HOST
from tests.harness.servers import session_directory

POSTGRES = {"pg_stat_statements.track": "all", "pg_stat_statements.track_utility": "on"}
"""Statements inside of triggers are counted, too, and so are BEGIN and COMMIT."""
SERVE = (sys.executable, "-c", "import sys; from app.cli import main; sys.exit(main(['serve']))")
_READY_S = 60.0
_STOP_S = 20.0
_POLL_S = 0.02
_PORTS = range(20_000, 32_000)
"""Below those that outgoing connections get."""

FILL = """
INSERT INTO products (id, name, price_cents, stock, reorder_point)
SELECT 'p-' || lpad(n::text, 7, '0'), 'Product number ' || n, 100 + n %% 9000, 1000, 10 FROM generate_series(0, %s - 1) AS n
"""


def product_id(number: int) -> str:
    """The id of the product of that number, counted from 0."""
    return f"p-{number:07}"


@dataclass(frozen=True, slots=True)
class Servers:
    """A PostgreSQL with an empty, migrated database and pg_stat_statements, and an empty Redis."""

    directory: Path
    postgres: PostgresServer
    redis: RedisServer

    @property
    def database_url(self) -> str:
        """The database's URL."""
        return self.postgres.url

    async def fill(self, products: int) -> None:
        """Insert products 0 to ``products`` - 1, each with its opening entry in the ledger."""
        async with await psycopg.AsyncConnection.connect(self.database_url, autocommit=True) as connection:
            await connection.execute(FILL, [products])
            await connection.execute("VACUUM ANALYZE")


@asynccontextmanager
async def servers(*, redis_options: Mapping[str, str] | None = None, checkout: Path | None = None) -> AsyncIterator[Servers]:
    """Start both in a directory that is removed afterwards; ``checkout``, if given, has the migrations of the database."""
    async with session_directory() as directory, AsyncExitStack() as opened:
        postgres = await start_postgres(directory / "postgres", options=POSTGRES)
        opened.push_async_callback(postgres.stop)
        redis = await start_redis(directory / "redis", options=redis_options, ports=free_ports())
        opened.push_async_callback(redis.stop)
        if checkout is None:
            await upgrade(postgres.url)
        else:
            await _migrate(checkout, postgres.url)
        async with await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as connection:
            await connection.execute("CREATE EXTENSION pg_stat_statements")
        yield Servers(directory, postgres, redis)


async def _migrate(checkout: Path, database_url: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(checkout)!r}); from app.cli import main; sys.exit(main(['migrate']))"
    environment = {**os.environ, "LARDER_DATABASE_URL": database_url}
    migrating = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=checkout, env=environment)
    if await migrating.wait():
        raise RuntimeError(f"the database could not be migrated by {checkout}")


@dataclass(frozen=True, slots=True)
class Service:
    """A process that serves HTTP."""

    pid: int
    endpoint: Endpoint
    log: Path

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.endpoint.port}"


@asynccontextmanager
async def larder(
    started: Servers, settings: Mapping[str, str] | None = None, *, command: Sequence[str] = SERVE
) -> AsyncIterator[Service]:
    """Run ``larder serve``, or a command that does the same, until it is ready; ``warm`` waits for its cache.

    Raises:
        TimeoutError: it does not come up; its log says why.
    """
    port = free_port()
    environment = {
        "LARDER_DATABASE_URL": started.database_url,
        "LARDER_REDIS_URL": started.redis.url,
        "LARDER_ACCESS": "open",
        "LARDER_HOST": HOST,
        "LARDER_PORT": str(port),
        **(settings or {}),
    }
    async with process(command, environment, port, started.directory / "larder.log", ready="/readyz") as running:
        yield running


@asynccontextmanager
async def process(
    command: Sequence[str], environment: Mapping[str, str], port: int, log: Path, *, ready: str
) -> AsyncIterator[Service]:
    """Run a command that serves HTTP on ``port``, until it answers ``GET {ready}`` with 200; stop it afterwards."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LARDER_")}
    with log.open("ab") as output:
        running = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=inherited | dict(environment),
            cwd=ROOT,
        )
    endpoint = Endpoint(port)
    try:
        async with asyncio.timeout(_READY_S):
            while not await _answers(endpoint, ready):
                if running.returncode is not None:
                    raise TimeoutError(f"{command[0]} ended: {log.read_text(errors='replace')[-2_000:]}")
                await asyncio.sleep(_POLL_S)
        yield Service(running.pid, endpoint, log)
    finally:
        endpoint.close()
        await _stop(running)


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


async def _answers(endpoint: Endpoint, path: str) -> bool:
    with suppress(NoAnswerError):
        return (await endpoint.request("GET", path, timeout_s=3)).status == 200
    return False


async def _stop(running: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        running.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_S):
            await running.wait()
    except TimeoutError:
        running.kill()
        await running.wait()


async def warm(endpoint: Endpoint, paths: Sequence[str], *, at_once: int = 16) -> None:
    """Read every path until it is a hit; a new service trusts its cache only after its first audits.

    Raises:
        TimeoutError: an answer does not become a hit.
    """
    gate = asyncio.Semaphore(at_once)

    async def one(path: str) -> None:
        async with gate:
            while not await hit(endpoint, path):  # noqa: ASYNC110 - another process sets no events
                await asyncio.sleep(_POLL_S)

    async with asyncio.timeout(_READY_S):
        while not await hit(endpoint, paths[0]):  # noqa: ASYNC110 - as above
            await asyncio.sleep(_POLL_S)
        await asyncio.gather(*(one(path) for path in paths))


async def hit(endpoint: Endpoint, path: str) -> bool:
    """Whether a read is answered by the proven cache. Raises ``NoAnswerError``."""
    answer = await endpoint.request("GET", path)
    return answer.status == 200 and answer.header(b"cache-status") == "larder; hit"
