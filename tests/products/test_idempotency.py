"""Requests that are done once, on a real database: whoever dies in between, and whoever asks at the same time."""

import asyncio
from collections import Counter
from functools import partial
from typing import Any

import pytest
import redis.asyncio

from app.cache.redis.store import Names
from app.cache.stats import Stats
from app.cache.write_through import Status
from app.main import products_of
from app.postgres.database import Database
from app.products.commands import Adjust, Effect
from app.products.errors import KeyReused, OutcomeUnknown, RequestInProgress
from app.products.idempotency import Replayed
from app.products.product import Line, Product, Reason
from app.products.pruner import Pruner
from app.products.service import Products
from app.products.transactions import ProductTransactions
from app.settings import Settings
from tests.harness.script import Gate
from tests.limits import write_limits
from tests.products.instances import Instance, by_hand, held, instance, once, rows


async def _take(products: Products, key: str, content: bytes = b"", *, product_id: str = "a", units: int = 1) -> Effect:
    return (await products.write(Adjust([Line(product_id, -units)], Reason.SALE), once(key, content)))[0]


async def _stock(settings: Settings, product_id: str = "a") -> int:
    [[stock]] = await rows(settings, "SELECT stock FROM products WHERE id = %(id)s", {"id": product_id})
    assert isinstance(stock, int)
    return stock


@pytest.mark.parametrize("instances", [1, 2])
async def test_the_same_request_many_times_at_once(
    larder: Instance, other: Instance, settings: Settings, instances: int
) -> None:
    """In one joined batch and on two instances: done once, every other one is told the same."""
    await larder.stock("a")
    await larder.stock("b")
    fleet = [larder.products, other.products][:instances]
    results = await asyncio.gather(*(_take(fleet[n % instances], "k") for n in range(20)), return_exceptions=True)
    assert sum(isinstance(result, Effect) for result in results) == 1
    assert {result.answer.body for result in results if isinstance(result, Replayed)} == {b"a@2"}
    assert sum(isinstance(result, Replayed) for result in results) == 19
    assert await _stock(settings) == 9


async def test_one_key_for_two_requests_at_once_does_one_of_them(larder: Instance, settings: Settings) -> None:
    """In one transaction or in two: whichever is second is refused."""
    ids = [f"p{number}" for number in range(10)]
    await larder.stock(*ids)
    takes = (_take(larder.products, "k", product_id.encode(), product_id=product_id) for product_id in ids)
    results = await asyncio.gather(*takes, return_exceptions=True)
    assert sum(isinstance(result, Effect) for result in results) == 1
    assert sum(isinstance(result, KeyReused) for result in results) == 9
    assert len(await rows(settings, "SELECT FROM stock_movements WHERE reason = 'sale'")) == 1


async def test_who_waits_for_a_request_under_way_is_told_to_come_again(larder: Instance, settings: Settings) -> None:
    """Past its patience the second request ends without being begun."""
    await larder.stock("a")
    impatient = Products(
        larder.cache, larder.products._source, larder.products._transactions, write_limits(idempotency_wait_ms=100)
    )
    async with held(settings, "SELECT pg_advisory_xact_lock(hashtextextended(chr(31) || 'k', 0))"):
        with pytest.raises(RequestInProgress):
            await _take(impatient, "k")
    assert isinstance(await _take(impatient, "k"), Effect)


_STOP_AT_COMMIT = """
CREATE FUNCTION stop_at_commit() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER stop_at_commit AFTER INSERT ON idempotency_records
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION stop_at_commit();
"""


async def test_a_server_process_that_dies_in_the_commit_leaves_nothing(larder: Instance, settings: Settings) -> None:
    """Killed with everything written and COMMIT sent: no change, no entry, no answer, so the retry does it."""
    await larder.stock("a")
    async with by_hand(settings) as connection:
        await connection.execute(_STOP_AT_COMMIT)
        await connection.execute("SELECT pg_advisory_lock(4711)")
        doomed = asyncio.create_task(_take(larder.products, "k"))
        async with asyncio.timeout(5):
            killed: list[Any] = []
            while not killed:
                killed = await (
                    await connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_locks"
                        " WHERE NOT granted AND locktype = 'advisory' AND objid = 4711"
                    )
                ).fetchall()
        with pytest.raises(OutcomeUnknown):
            await doomed
        assert await rows(settings, "SELECT FROM stock_movements WHERE reason = 'sale'") == []
        assert await _stock(settings) == 10
        await connection.execute("SELECT pg_advisory_unlock(4711)")
    assert isinstance(await _take(larder.products, "k"), Effect)
    assert await _stock(settings) == 9


@pytest.mark.guarantee("R10")
async def test_a_replayed_answer_is_given_when_readers_see_what_it_speaks_of(
    larder: Instance, other: Instance, settings: Settings
) -> None:
    """The first writer died between commit and publish: the retry publishes, so that no reader is behind it (R10)."""
    await larder.stock("a")
    await _proven(other)
    client = redis.asyncio.Redis.from_url(settings.redis_url)
    slot = Names(products_of(settings).cache_name).prefix + "a"
    before = await client.get(slot)
    await _take(larder.products, "k")
    assert before is not None
    await client.set(slot, before)  # what the cache held, had the writer died
    stale = await other.products.get("a")
    assert (stale.status, stale.state.version) == (Status.HIT, 1)
    with pytest.raises(Replayed):
        await _take(other.products, "k")
    current = await larder.products.get("a")
    assert (current.status, current.state.version) == (Status.HIT, 2)
    await client.delete(slot)
    with pytest.raises(Replayed):
        await _take(other.products, "k")
    assert (await larder.products.get("a")).state.version == 2
    await client.aclose()


async def _proven(larder: Instance) -> None:
    async with asyncio.timeout(10):
        while (await larder.products.get("a")).status is not Status.HIT:
            await asyncio.sleep(0.02)


async def test_an_instance_that_is_stopped_finishes_what_it_accepted(settings: Settings) -> None:
    """A caller who left does not undo the commit under way; the retry elsewhere finds the answer."""
    async with instance(settings) as first:
        await first.stock("a")
        task = asyncio.create_task(_take(first.products, "k"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with instance(settings) as second:
        with pytest.raises(Replayed):
            await _take(second.products, "k")
        assert await _stock(settings) == 9


async def test_old_answers_are_removed_in_steps(larder: Instance, settings: Settings, database: Database) -> None:
    """Each step removes a bounded number, together all that are old enough, and the younger ones stay."""
    await larder.stock("a")
    for key in "abcdefg":
        await _take(larder.products, key)
    async with by_hand(settings) as connection:
        await connection.execute("UPDATE idempotency_records SET created_at = created_at - interval '2 days' WHERE key < 'f'")
    transactions = ProductTransactions(database)
    assert [await transactions.forget(age_s=86_400, limit=2) for _ in range(2)] == [2, 2]
    pruner = Pruner({"answers": partial(transactions.forget, age_s=86_400)}, Stats(), pause_s=60, step=1)
    assert [await pruner.prune("answers"), await pruner.prune("answers")] == [1, 0]
    assert await rows(settings, "SELECT key FROM idempotency_records ORDER BY key") == [("f",), ("g",)]
    with pytest.raises(Replayed):
        await _take(larder.products, "f")
    done = await _take(larder.products, "a")
    assert isinstance(done.row, Product)
    assert done.row.version == 9


async def test_the_pruner_survives_whatever_is_raised() -> None:
    """It is counted, and the pruner goes on with what else there is to remove, and then again."""
    stats, gate, removed = Stats(), Gate(), Counter[str]()

    async def odd(*, limit: int) -> int:
        del limit
        if removed["others"]:
            await gate.enter()
        raise RuntimeError("nobody foresaw this")

    async def others(*, limit: int) -> int:
        removed["others"] += 1
        return limit - 1

    pruner = asyncio.create_task(Pruner({"odd ones": odd, "others": others}, stats, pause_s=0).run())
    await gate.arrival()
    assert stats.unexpected == 1
    pruner.cancel()
    await asyncio.gather(pruner, return_exceptions=True)
