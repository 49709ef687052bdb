"""Where the contenders run: one PostgreSQL with a copy of the catalogue for each, and a Redis for each that caches."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psycopg

from app.postgres.migrations import upgrade
from app.private_servers import free_ports, start_postgres, start_redis
from benchmarks.contest.contenders import CEILING, LARDER, Contender, ContenderProcess
from benchmarks.peers.environment import set_up
from tests.harness.servers import create_database, session_directory

# Durable, as it is shipped: a commit waits for the disk. Checkpoints are put off: none falls into one contender's round.
POSTGRES = {"max_connections": "400", "shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "1h"}
REDIS = {"maxmemory": "1gb"}
STOCK = 1_000_000_000
"""The stock of each product, large enough that nothing is refused."""
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


class Environment:
    """Servers and contenders, running and resting; made by ``start_environment``."""

    def __init__(self, directory: Path, products: int) -> None:
        self.directory = directory
        self.paths = product_paths(products)
        self.served: dict[Contender, ContenderProcess] = {}

    @property
    def probe(self) -> str:
        """A path that is read to see whether Larder trusts its cache."""
        return self.paths[0]


@asynccontextmanager
async def start_environment(
    contenders: Sequence[Contender],
    *,
    products: int = 1_000,
    redis_options: Mapping[str, str] = REDIS,
    warm: bool = True,
) -> AsyncIterator[Environment]:
    """Start servers and contenders, each on a copy of the catalogue, and resting; stop all of them at the end.

    Args:
        contenders: who; the ceiling needs ``LARDER`` beside it.
        products: the catalogue's size.
        redis_options: of each Redis.
        warm: whether everything is read once.

    Raises:
        RuntimeError: a contender does not come up.
    """
    await asyncio.to_thread(set_up)
    async with AsyncExitStack() as opened:
        environment = Environment(await opened.enter_async_context(session_directory()), products)
        postgres = await start_postgres(environment.directory / "postgres", options=POSTGRES)
        opened.push_async_callback(postgres.stop)
        await _fill(postgres.url, products)
        # Larder first: the ceiling answers what Larder answered.
        for contender in sorted(contenders, key=lambda one: one == CEILING):
            redis_url = ""
            if contender.caches:
                redis = await start_redis(
                    environment.directory / f"redis-{contender.name}", options=redis_options, ports=free_ports()
                )
                opened.push_async_callback(redis.stop)
                redis_url = redis.url
            template = "peer_catalogue" if contender.peer else "larder_catalogue"
            served = ContenderProcess(
                contender,
                database_url=await create_database(postgres.url, f"of_{contender.name}", template=template),
                redis_url=redis_url,
                answers=environment.directory / "answers.json",
                log=environment.directory / f"{contender.name}.log",
            )
            opened.push_async_callback(served.stop)
            served.start()
            await served.until_ready(environment.probe)
            environment.served[contender] = served
            if warm:
                await asyncio.to_thread(served.get, environment.paths)
            if warm and contender == LARDER:
                await asyncio.to_thread(_remember, served, environment)
            served.pause()
        yield environment


def _remember(served: ContenderProcess, environment: Environment) -> None:
    """Keep Larder's hits, all of them, for the ceiling."""
    answers = served.get(environment.paths)
    if any(answer.headers["cache-status"] != "larder; hit" for answer in answers):
        raise RuntimeError("Larder does not answer from its cache")
    # uvicorn adds the date itself, to whatever it serves.
    kept = {
        path: ([pair for pair in answer.headers.items() if pair[0] != "date"], answer.body.decode())
        for path, answer in zip(environment.paths, answers, strict=True)
    }
    (environment.directory / "answers.json").write_text(json.dumps(kept))


async def _fill(url: str, products: int) -> None:
    """Make the two catalogues that are copied: Larder's own tables, and the peers' without Larder's triggers."""
    larder = await create_database(url, "larder_catalogue")
    await upgrade(larder)
    peers = await create_database(url, "peer_catalogue")
    async with await psycopg.AsyncConnection.connect(peers, autocommit=True) as connection:
        await connection.execute(_PEERS)
    for catalogue in (larder, peers):
        async with await psycopg.AsyncConnection.connect(catalogue, autocommit=True) as connection:
            await connection.execute(
                "INSERT INTO products (id, name, price_cents, stock, created_at, updated_at)"
                " SELECT id, 'Product of the catalogue no. ' || number, 100 + number, %s, '2026-01-01Z', '2026-01-01Z'"
                " FROM unnest(%s::text[]) WITH ORDINALITY AS given (id, number)",
                [STOCK, product_ids(products)],
            )
            await connection.execute("VACUUM (ANALYZE) products")
