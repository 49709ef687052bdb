"""Accepted writes while an instance or PostgreSQL is killed between two steps: every 202 is decided exactly once.

A gate stops the service at one step. A trigger that sleeps stops it within a transaction, a standby that does not exist between
COMMIT and its answer, and a paused Redis between COMMIT and publish.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from app.private_servers import PostgresServer, RedisServer
from tests.cli.larder_process import Larder, ServingLarder

pytestmark = [pytest.mark.alone, pytest.mark.slow]

GATES = """
CREATE TABLE gate (closed text);
CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM public.gate WHERE closed = TG_ARGV[0]) THEN
        PERFORM pg_sleep(4);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER accept AFTER INSERT ON accepted_writes FOR EACH STATEMENT EXECUTE FUNCTION wait_at_gate('accept');
CREATE TRIGGER change AFTER UPDATE ON products FOR EACH STATEMENT EXECUTE FUNCTION wait_at_gate('change');
CREATE TRIGGER remove AFTER DELETE ON accepted_writes FOR EACH STATEMENT EXECUTE FUNCTION wait_at_gate('remove');
"""
ASLEEP = "SELECT count(*) FROM pg_stat_activity WHERE wait_event IN ('PgSleep', 'SyncRep')"
PRODUCTS = ("a", "b", "c")
WRITES = 24


@asynccontextmanager
async def by_hand(url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


async def close_gate(hand: psycopg.AsyncConnection[Any], redis: RedisServer, gate: str) -> None:
    if gate == "publish":
        redis.pause()
    elif gate == "committed":
        await hand.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        await hand.execute("SELECT pg_reload_conf()")
    else:
        await hand.execute("INSERT INTO gate VALUES (%s)", (gate,))


async def open_gate(url: str, redis: RedisServer, gate: str) -> None:
    if gate == "publish":
        redis.resume()
        return
    async with by_hand(url) as hand:
        await hand.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await hand.execute("SELECT pg_reload_conf()")
        await hand.execute("SET synchronous_commit = local")
        await hand.execute("DELETE FROM gate")


async def until(hand: psycopg.AsyncConnection[Any], statement: str, value: int) -> None:
    """Wait until a statement gives at least a value."""
    async with asyncio.timeout(20):
        while (await (await hand.execute(statement.encode())).fetchone() or (0,))[0] < value:
            await asyncio.sleep(0.01)


async def send(urls: list[str], numbers: range) -> None:
    """One sender: each write until it has a 202 or its answer, one after another, on whichever instance lives."""
    async with httpx.AsyncClient(timeout=10) as client:
        for number in numbers:
            async with asyncio.timeout(60):
                while True:
                    try:
                        answer = await client.post(
                            f"{urls[-1]}/products/{PRODUCTS[number % 3]}/stock/adjustments",
                            json={"delta": 1, "reason": "receipt", "reference": str(number)},
                            headers={"Prefer": "respond-async", "Idempotency-Key": f"k{number}"},
                        )
                    except httpx.HTTPError:
                        await asyncio.sleep(0.05)
                        continue
                    if answer.status_code in (200, 202):
                        break
                    assert answer.status_code in (409, 503), answer.text
                    await asyncio.sleep(0.05)


async def check(url: str) -> None:
    """Every write is done once, in its order; a read after "done" shows it."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        for number in range(WRITES):
            async with asyncio.timeout(60):
                while (status := await client.get(f"/writes/k{number}")).status_code == 503 or (
                    status.status_code == 200 and status.json()["state"] == "queued"
                ):
                    await asyncio.sleep(0.05)
            assert status.json()["state"] == "done", status.text
            shown = await client.get(f"/products/{PRODUCTS[number % 3]}")
            assert shown.json()["version"] >= status.json()["answer"]["body"]["product"]["version"]
        for place, product in enumerate(PRODUCTS):
            movements = (await client.get(f"/products/{product}/stock/movements?limit=250")).json()["items"]
            references = [movement["reference"] for movement in reversed(movements) if movement["reason"] == "receipt"]
            assert references == [str(number) for number in range(place, WRITES, 3)]
            stock = (await client.get(f"/products/{product}")).json()["stock"]
            assert stock == sum(movement["delta"] for movement in movements) == 10 + WRITES // 3


GATES_BY_NAME = ("accept", "committed", "change", "remove", "publish")
"""While a request is inserted; after its COMMIT, before the 202; while the applier decides it, while it removes its row; after
the applier's COMMIT, before its publish."""
SHORT = {("committed", "instance"), ("change", "postgres")}


@pytest.mark.guarantee("G2a")
@pytest.mark.parametrize(
    ("gate", "victim"),
    [
        pytest.param(gate, victim, marks=() if (gate, victim) in SHORT else pytest.mark.long)
        for gate in GATES_BY_NAME
        for victim in ("instance", "postgres")
    ],
)
async def test_killed_between_two_steps(
    private_postgres: PostgresServer, private_redis: RedisServer, tmp_path: Path, gate: str, victim: str
) -> None:
    """Each 202 is decided exactly once, the ledger adds up, the sender's order is kept, and no "done" comes before its read.

    The only instance is killed, so it is the one that accepts and applies. Its transaction is then still open in PostgreSQL,
    and another instance takes its place.
    """
    settings = {
        "LARDER_DATABASE_URL": private_postgres.url,
        "LARDER_REDIS_URL": private_redis.url,
        "LARDER_ACCEPT_WRITES": "1",
    }
    larder = Larder(tmp_path)
    async with AsyncExitStack() as opened:

        async def start() -> ServingLarder:
            return await opened.enter_async_context(larder.serving("serve", **settings))

        first = await start()
        async with httpx.AsyncClient(base_url=first.url) as client:
            items = [{"id": product, "name": "Mug", "price_cents": 1, "stock": 10} for product in PRODUCTS]
            assert (await client.post("/products/batch", json={"items": items})).status_code == 200
        urls = [first.url]
        async with asyncio.TaskGroup() as group:
            async with by_hand(private_postgres.url) as hand:
                await hand.execute(GATES)
                await close_gate(hand, private_redis, gate)
                sender = group.create_task(send(urls, range(WRITES)))
                if gate == "publish":
                    await until(hand, "SELECT count(*) FROM stock_movements WHERE reason = 'receipt'", 1)
                else:
                    await until(hand, ASLEEP, 1)
                if victim == "postgres":
                    await private_postgres.kill()
                else:
                    await first.end(signal.SIGKILL)
            if victim == "postgres":
                await private_postgres.restart()
            await open_gate(private_postgres.url, private_redis, gate)
            if victim == "instance":
                urls.append((await start()).url)
            await sender
        await check(urls[-1])
