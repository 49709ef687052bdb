"""Where the contenders run: one PostgreSQL, one Redis, a catalogue, and for each contender a copy of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psycopg
import redis.asyncio
from psycopg import sql

from app.embedded import PostgresServer, RedisServer, start_postgres, start_redis
from app.postgres.migrations import upgrade
from benchmarks.contenders import CEILING, LARDER, Contender, Served
from benchmarks.peers.environment import set_up
from tests.servers.databases import create_database
from tests.servers.directory import session_directory

# Durable, as it is shipped: a commit waits for the disk. Checkpoints are put off: none falls into one contender's round.
POSTGRES = {"max_connections": "400", "shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "1h"}
REDIS = {"maxmemory": "1gb", "databases": "16"}
STOCK = 1_000_000_000
"""Of each product, so that nothing is refused."""
_PEERS = b"""
CREATE TABLE products (
    id text COLLATE "C" PRIMARY KEY,
    name text NOT NULL,
    price_cents bigint NOT NULL CHECK (price_cents >= 0),
    stock bigint NOT NULL CHECK (stock >= 0),
    reorder_point bigint NOT NULL DEFAULT 0,
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE TABLE stock_movements (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product_id text COLLATE "C" NOT NULL,
    delta bigint NOT NULL,
    stock_after bigint NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ix_stock_movements ON stock_movements (product_id, id);
"""


def product_ids(count: int) -> list[str]:
    """Name the products of the catalogue: ``product-00000`` and so on."""
    return [f"product-{number:05}" for number in range(count)]


def product_paths(count: int) -> list[str]:
    """Give the path of each."""
    return [f"/products/{product_id}" for product_id in product_ids(count)]


class Course:
    """Servers and contenders, running and resting; made by ``start_course``."""

    def __init__(self, directory: Path, postgres: PostgresServer, redis_server: RedisServer, products: int) -> None:
        self.directory = directory
        self.postgres = postgres
        self.redis = redis_server
        self.paths = product_paths(products)
        self.served: dict[Contender, Served] = {}

    @property
    def probe(self) -> str:
        """A path that is read to see whether Larder trusts its cache."""
        return self.paths[0]

    async def redis_do(self, *words: str) -> object:
        """Send a command to Redis."""
        client = redis.asyncio.Redis.from_url(self.redis.url)
        try:
            return await client.execute_command(*words)  # type: ignore[no-untyped-call]  # the driver's own
        finally:
            await client.aclose()


@asynccontextmanager
async def start_course(contenders: Sequence[Contender], *, products: int = 1_000) -> AsyncIterator[Course]:
    """Start servers and contenders, each on a copy of the catalogue, warm, and resting; stop all of them at the end."""
    await asyncio.to_thread(set_up)
    async with AsyncExitStack() as opened:
        directory = await opened.enter_async_context(session_directory())
        postgres = await start_postgres(directory / "postgres", options=POSTGRES)
        opened.push_async_callback(postgres.stop)
        redis_server = await start_redis(directory / "redis", options=REDIS)
        opened.push_async_callback(redis_server.stop)
        course = Course(directory, postgres, redis_server, products)
        await _fill(postgres, products)
        # Larder first: the ceiling answers what Larder answered.
        for number, contender in enumerate(sorted(contenders, key=lambda one: one == CEILING)):
            database = "larder_catalogue" if not contender.peer else "peer_catalogue"
            served = Served(
                contender,
                database_url=await create_database(postgres.url, f"of_{contender.name}", template=database),
                redis_url=f"redis://127.0.0.1:{redis_server.port}/{number}",
                answers=directory / "answers.json",
                log=directory / f"{contender.name}.log",
            )
            opened.push_async_callback(served.stop)
            served.start()
            await served.until_ready(course.probe)
            course.served[contender] = served
            answers = await asyncio.to_thread(served.get, course.paths)
            assert all(answer.status == 200 for answer in answers), f"{contender.label} does not answer"  # noqa: S101 - a look
            if contender == LARDER:
                await asyncio.to_thread(_remember, served, course)
            served.pause()
        yield course


def _remember(served: Served, course: Course) -> None:
    """Keep Larder's hits, all of them, for the ceiling."""
    answers = served.get(course.paths)
    if any(answer.headers["cache-status"] != "larder; hit" for answer in answers):
        raise RuntimeError("Larder does not answer from its cache")
    # uvicorn adds the date itself, to whatever it serves.
    kept = {
        path: ([pair for pair in answer.headers.items() if pair[0] != "date"], answer.body.decode())
        for path, answer in zip(course.paths, answers, strict=True)
    }
    (course.directory / "answers.json").write_text(json.dumps(kept))


async def _fill(postgres: PostgresServer, products: int) -> None:
    """Make the two catalogues that are copied: Larder's own tables, and the peers' without Larder's triggers."""
    larder = await create_database(postgres.url, "larder_catalogue")
    await upgrade(larder)
    peers = await create_database(postgres.url, "peer_catalogue")
    async with await psycopg.AsyncConnection.connect(peers, autocommit=True) as connection:
        await connection.execute(_PEERS)
    for url in (larder, peers):
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(
                "INSERT INTO products (id, name, price_cents, stock, created_at, updated_at)"
                " SELECT id, 'Product of the catalogue no. ' || number, 100 + number, %s, '2026-01-01Z', '2026-01-01Z'"
                " FROM unnest(%s::text[]) WITH ORDINALITY AS given (id, number)",
                [STOCK, product_ids(products)],
            )
            for table in (b"products", b"stock_movements"):
                await connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(sql.Identifier(table.decode())))
