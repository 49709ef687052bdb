"""Many clients take single units of one product: `python -m tests.oversell [--processes N]`.

As many takes succeed as there are units, whoever serves them, and the ledger adds up. The servers are private ones, the service
processes real ones.
"""

import argparse
import asyncio
import os
import ssl
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx
import psycopg

from app.postgres.migrations import upgrade
from app.private_servers import start_postgres, start_redis
from tests.harness.servers import session_directory

_PROGRAM = (sys.executable, "-c", "import sys; from app.cli import main; sys.exit(main())", "serve")
_READY = "Larder serves on "
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Sale:
    """How much is there, and who wants it."""

    clients: int = 100
    takes: int = 200
    stock: int = 10_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the clients were told, and what the database holds in the end."""

    told: Mapping[str, int]
    stock: int
    version: int
    ledger_sum: int
    sold: int
    lowest: int
    seconds: float

    def faults(self, sale: Sale) -> list[str]:
        """Say what is wrong; nothing, if no unit was sold twice and none was withheld."""
        wanted = sale.clients * sale.takes
        expected = min(sale.stock, wanted)
        right = {"200": expected, "insufficient-stock": wanted - expected}
        wrong = {
            "answers": (dict(self.told), {kind: number for kind, number in right.items() if number}),
            "stock": (self.stock, sale.stock - expected),
            "version": (self.version, 1 + expected),
            "sum of the ledger": (self.ledger_sum, sale.stock - expected),
            "sales in the ledger": (self.sold, expected),
            "lowest stock": (self.lowest, sale.stock - expected),
        }
        return [f"{name}: {found}, not {due}" for name, (found, due) in wrong.items() if found != due]


@asynccontextmanager
async def served(database_url: str, redis_url: str, namespace: str) -> AsyncIterator[str]:
    """One service process; its URL."""
    given = {"ACCESS": "open", "DATABASE_URL": database_url, "REDIS_URL": redis_url, "CACHE_NAMESPACE": namespace, "PORT": "0"}
    environment = {**os.environ, **{f"LARDER_{name}": value for name, value in given.items()}}
    process = await asyncio.create_subprocess_exec(*_PROGRAM, env=environment, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), _PATIENCE_S)).decode().strip()
        if not line.startswith(_READY):
            raise RuntimeError(f"the service did not start: {line!r}")
        yield line.removeprefix(_READY)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def sell(urls: Sequence[str], database_url: str, sale: Sale) -> Outcome:
    """Let the clients take, each from one of the processes, and look at what became of it."""
    context = ssl.create_default_context()  # made once: it is costly, and never used
    async with httpx.AsyncClient(base_url=urls[0], verify=context) as client:
        body = {"id": "last-units", "name": "Last units", "price_cents": 1, "stock": sale.stock}
        (await client.post("/products", json=body)).raise_for_status()
    told: Counter[str] = Counter()

    async def take(number: int) -> None:
        async with httpx.AsyncClient(base_url=urls[number % len(urls)], verify=context, timeout=_PATIENCE_S) as client:
            for _ in range(sale.takes):
                answer = await client.post("/products/last-units/stock/adjustments", json={"delta": -1, "reason": "sale"})
                told["200" if answer.is_success else answer.json()["type"].removeprefix("/problems/")] += 1

    began = time.perf_counter()
    await asyncio.gather(*(take(number) for number in range(sale.clients)))
    seconds = time.perf_counter() - began
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        cursor = await connection.execute(
            "SELECT p.stock, p.version, sum(m.delta)::bigint, count(*) FILTER (WHERE reason = 'sale'), min(m.stock_after)"
            " FROM products p JOIN stock_movements m ON m.product_id = p.id WHERE p.id = 'last-units' GROUP BY p.id"
        )
        [(stock, version, ledger_sum, sold, lowest)] = await cursor.fetchall()
    return Outcome(told, stock, version, ledger_sum, sold, lowest, seconds)


async def main() -> int:
    """Sell on private servers, report, and return the exit status."""
    usual = Sale()
    parser = argparse.ArgumentParser(prog="python -m tests.oversell")
    parser.add_argument("--processes", type=int, default=3, help="service processes on the one database (default: 3)")
    parser.add_argument("--clients", type=int, default=usual.clients)
    parser.add_argument("--takes", type=int, default=usual.takes, help="takes of each client")
    parser.add_argument("--stock", type=int, default=usual.stock)
    arguments = parser.parse_args()
    sale = Sale(arguments.clients, arguments.takes, arguments.stock)
    async with session_directory() as directory, AsyncExitStack() as opened:
        postgres = await start_postgres(directory / "postgres", options={"max_connections": "200"})
        opened.push_async_callback(postgres.stop)
        redis = await start_redis(directory / "redis")
        opened.push_async_callback(redis.stop)
        await upgrade(postgres.url)
        urls = [
            await opened.enter_async_context(served(postgres.url, redis.url, "oversell.1")) for _ in range(arguments.processes)
        ]
        outcome = await sell(urls, postgres.url, sale)
    faults = outcome.faults(sale)
    print(f"{arguments.processes} processes, {sale.clients} clients x {sale.takes} takes of {sale.stock} units:")
    print(f"{dict(outcome.told)} in {outcome.seconds:.1f} s; {outcome.stock} units left, the ledger says {outcome.ledger_sum}")
    print("\n".join(faults) if faults else "Exactly what was there was sold.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
