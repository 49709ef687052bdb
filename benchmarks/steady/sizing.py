"""``python -m benchmarks.steady.sizing [--products 100000] [--sales 5000]``: memory and disk for each product, and connections.

Private servers and a ``larder serve`` with default settings. Names have 22 characters. Every product is read until its slot is
filled; then sales with idempotency keys are sent. Sizes of PostgreSQL are those of its files, right after the rows were
inserted and vacuumed: updates leave free space behind until it is used again. The table is Markdown, for docs/SIZING.md.
"""

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import psutil
import psycopg
import redis.asyncio
from psycopg import sql

from benchmarks.steady.testbed import Servers, Service, larder, product_id, servers, warm
from tests.harness.loop import run

_IDS = 100
"""Products that one request reads."""
_AT_ONCE = 16
_TABLES = ("products", "stock_movements", "idempotency_records")
_SIZE = sql.SQL("SELECT pg_table_size({0}), pg_indexes_size({0}), count(*) FROM {1}")


async def main(products: int, sales: int) -> Sequence[str]:
    """Measure; return the lines of the table."""
    lines = [f"{products:,} products, {sales:,} sales", "", "| | bytes for each |", "|---|---:|"]
    async with servers() as started:
        await started.fill(products)
        for table in _TABLES[:2]:
            lines += await _sizes(started, table)
        async with larder(started) as service:
            path = f"/products/{product_id(0)}"
            await warm(service.endpoint, [path])
            body = (await service.endpoint.request("GET", path)).body
            lines.append(f"| body of a GET | {len(body):,} |")
            rss, before = _resident_mb(service), await _redis(started, "memory")
            await _read_all(service, products)
            after = await _redis(started, "memory")
            filled = (await _redis(started, "keyspace"))["db0"]["keys"]
            each = (int(after["used_memory"]) - int(before["used_memory"])) / (int(filled) - 1)
            lines.append(f"| Redis, a filled slot ({filled:,} keys) | {each:,.0f} |")
            await _sell(service, products, sales)
            for table in _TABLES[1:]:
                lines += await _sizes(started, table)
            lines += [
                "",
                f"resident memory of the worker: {rss:.0f} MB before the reads, {_resident_mb(service):.0f} MB at the end",
            ]
            lines.append(f"connections of one worker now: {await _connections(started)}")
    return lines


async def _sizes(started: Servers, table: str) -> list[str]:
    """Return lines with the bytes of a table and of its indexes for each row."""
    async with await psycopg.AsyncConnection.connect(started.database_url, autocommit=True) as connection:
        await connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(table)))
        found = await connection.execute(_SIZE.format(sql.Literal(table), sql.Identifier(table)))
        heap, indexes, rows = await found.fetchone() or (0, 0, 1)
    return [
        f"| PostgreSQL, `{table}`, a row of {rows:,} | {heap / rows:,.0f} |",
        f"| PostgreSQL, indexes of `{table}`, a row | {indexes / rows:,.0f} |",
    ]


async def _read_all(service: Service, products: int) -> None:
    """Read every product, so that each slot is filled. Raises ``RuntimeError`` for an answer that is no 200."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def read(first: int) -> None:
        async with gate:
            ids = "&".join(f"id={product_id(number)}" for number in range(first, min(first + _IDS, products)))
            answer = await service.endpoint.request("GET", f"/products?{ids}")
            if answer.status != 200:
                raise RuntimeError(f"not read: {answer.status} {answer.body!r}")

    await asyncio.gather(*(read(first) for first in range(0, products, _IDS)))


async def _sell(service: Service, products: int, sales: int) -> None:
    """Sell one unit of as many different products, each with an idempotency key. Raises ``RuntimeError`` for a refusal."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def sell(number: int) -> None:
        async with gate:
            answer = await service.endpoint.request(
                "POST",
                f"/products/{product_id(number % products)}/stock/adjustments",
                headers=f"Idempotency-Key: sale-{number:08}\r\n",
                body=b'{"delta": -1, "reason": "sale", "reference": "order-%08d"}' % number,
            )
            if answer.status != 200:
                raise RuntimeError(f"not sold: {answer.status} {answer.body!r}")

    await asyncio.gather(*(sell(number) for number in range(sales)))


def _resident_mb(service: Service) -> float:
    return float(psutil.Process(service.pid).memory_info().rss) / 1e6


async def _redis(started: Servers, section: str) -> Mapping[str, Any]:
    async with redis.asyncio.Redis.from_url(started.redis.url) as client:
        return dict(await client.info(section))


async def _connections(started: Servers) -> str:
    async with await psycopg.AsyncConnection.connect(started.database_url, autocommit=True) as connection:
        found = await connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        [postgres] = await found.fetchone() or [0]
    async with redis.asyncio.Redis.from_url(started.redis.url) as client:
        own = await client.client_id()
        others = [each for each in await client.client_list() if int(each["id"]) != own]
    return f"{postgres} to PostgreSQL, {len(others)} to Redis"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady.sizing", description=__doc__)
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--sales", type=int, default=5_000)
    arguments = parser.parse_args()
    sys.stdout.write("\n".join(run(main(arguments.products, arguments.sales))) + "\n")
