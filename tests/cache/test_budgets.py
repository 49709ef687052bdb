"""What reads, writes and audits cost, counted on the wire (G7)."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from app.cache.config import CacheConfig
from app.cache.policies import WritePolicy
from app.cache.ports import Reading
from app.cache.write_through import Peeked, Read, Status
from app.products.commands import Adjust, Change, Put, Upsert, set_stock
from app.products.errors import ProductsMissing
from app.products.idempotency import Answer, IdempotencyKey, Origin, Replayed
from app.products.product import Draft, Line, Reason
from app.products.reservation import Part, RequestedLine
from app.products.reservation_commands import Commit, Extend, Release, Reserve
from tests.cache.conftest import Slots
from tests.cache.rig import LONG_FENCE, Process, draft, open_process
from tests.cache.taps import WHO, Tap, postgres_proxy, redis_proxy
from tests.harness.servers import execute

KEY = "mug"


@dataclass(frozen=True, slots=True)
class Metered:
    """A process whose round trips to both servers are counted; ``order`` has the commands as they were sent."""

    process: Process
    redis: Tap
    postgres: Tap
    order: list[str]

    def reset(self) -> None:
        for tap in (self.redis, self.postgres):
            tap.clear()


@pytest.fixture
def config() -> CacheConfig:
    return LONG_FENCE


@pytest.fixture
async def metered(redis_url: str, database_url: str, namespace: str, config: CacheConfig) -> AsyncIterator[Metered]:
    order: list[str] = []
    redis_tap, postgres_tap = Tap(order), Tap(order)
    async with (
        redis_proxy(redis_url, redis_tap) as redis_proxied,
        postgres_proxy(database_url, postgres_tap) as postgres_proxied,
        open_process(redis_proxied, postgres_proxied, namespace, config=config) as process,
    ):
        await process.trust()
        await process.write(Put(draft(KEY)))
        metered = Metered(process, redis_tap, postgres_tap, order)
        metered.reset()
        yield metered


@pytest.mark.guarantee("G7")
async def test_hit(metered: Metered) -> None:
    """A hit costs one Redis round trip with one MGET, and no statement."""
    assert (await metered.process.cache.read(KEY)).status is Status.HIT
    assert metered.order == ["MGET", WHO]
    assert (metered.redis.round_trips, metered.postgres.round_trips) == (1, 0)


async def test_fifty_hits_at_once(metered: Metered) -> None:
    """Hits that come together share MGETs, and cost no statement."""
    reads = await asyncio.gather(*(metered.process.cache.read(KEY) for _ in range(50)))
    assert {read.status for read in reads} == {Status.HIT}
    assert 1 <= metered.order.count("MGET") <= 3
    assert metered.postgres.round_trips == 0


async def test_read_of_many(metered: Metered) -> None:
    """Two hundred keys in one request are one round trip."""
    drafts = [draft(f"p{number}") for number in range(200)]
    await metered.process.products.write(Upsert(drafts))
    metered.reset()
    reads = await metered.process.cache.read_many([item.id for item in drafts])
    assert {read.status for read in reads} == {Status.HIT}
    assert (metered.redis.round_trips, metered.postgres.round_trips) == (1, 0)


async def served(metered: Metered, key: str) -> Read:
    """Read as a GET does: what the hot read finds and does not answer goes on to the endpoint."""
    found: asyncio.Future[Peeked] = asyncio.get_running_loop().create_future()
    metered.process.products.peek(key, found.set_result)
    reading = await found
    assert isinstance(reading, Reading)
    return await metered.process.products.get(key, reading=reading)


@pytest.mark.guarantee("G7")
async def test_cached_absence(metered: Metered) -> None:
    """A cached 404 costs one Redis round trip, as a hit does."""
    assert (await metered.process.cache.read("nothing")).status is Status.STORED
    metered.reset()
    assert (await served(metered, "nothing")).status is Status.HIT
    assert (metered.redis.round_trips, metered.postgres.round_trips) == (1, 0)


@pytest.mark.guarantee("G7")
async def test_bypass(metered: Metered, slots: Slots) -> None:
    """Without a fence a read of a filled slot costs one Redis round trip and one statement."""
    await slots.client.delete(slots.names.fence)
    assert (await served(metered, KEY)).status is Status.BYPASS
    assert (metered.redis.round_trips, metered.postgres.round_trips) == (1, 1)


@pytest.mark.guarantee("G7")
async def test_miss(metered: Metered) -> None:
    """A GET that misses asks for its slot once, leases it, loads by one statement and fills it; the lease is first."""
    await metered.process.cache.drop(KEY)
    metered.reset()
    assert (await served(metered, KEY)).status is Status.STORED
    assert metered.redis.round_trips == 3
    assert metered.postgres.round_trips == 1
    assert [name for name in metered.order if name in ("MGET", "EVALSHA")] == ["MGET", "EVALSHA", "EVALSHA"]
    statement = next(index for index, text in enumerate(metered.order) if "larder_epoch" in text)
    lease, fill = [index for index, text in enumerate(metered.order) if text == "EVALSHA"]
    assert lease < statement < fill


@pytest.mark.guarantee("G7")
async def test_cold_read(metered: Metered) -> None:
    """Among cold reads, a GET that misses awaits two round trips of Redis: its lease comes with the reading, then the load."""
    for number in range(20):
        await served(metered, f"cold-{number}")
    metered.reset()
    assert (await served(metered, "cold")).status is Status.STORED
    assert (metered.redis.round_trips, metered.postgres.round_trips) == (2, 1)
    assert [name for name in metered.order if name in ("MGET", "EVALSHA")] == ["MGET", "EVALSHA", "EVALSHA"]
    statement = next(index for index, text in enumerate(metered.order) if "larder_epoch" in text)
    lease, fill = [index for index, text in enumerate(metered.order) if text == "EVALSHA"]
    assert lease < statement < fill
    metered.reset()
    assert (await metered.process.cache.read("cold")).status is Status.HIT
    assert metered.order == ["MGET", WHO]


@pytest.mark.guarantee("G7")
async def test_write_on_a_filled_slot(metered: Metered) -> None:
    """A write to a slot known to be filled awaits two round trips of the transaction, then one of Redis, none before."""
    assert (await metered.process.write(set_stock(KEY, 1))).proven
    assert metered.order[-2:] == ["EVALSHA", WHO]
    assert metered.redis.round_trips == 1
    assert metered.postgres.round_trips == 2
    statements = metered.order[:-2]
    # Between BEGIN and COMMIT: the locks, the ledger, the row, the read-back.
    assert (statements[0], statements[-1], len(statements)) == ("BEGIN", "COMMIT", 6)


@pytest.mark.guarantee("G7")
async def test_write_with_a_key(metered: Metered) -> None:
    """The answer that is stored is made of the read-back, so COMMIT has a round trip of its own, also for who shares it."""
    key = IdempotencyKey("till", "1", b"hash", lambda _: Answer(200, b"done"))
    adjust = Adjust([Line(KEY, 1)], Reason.RECEIPT)
    products = metered.process.products
    await products.write(adjust, Origin(idempotency_key=key))
    assert (metered.redis.round_trips, metered.postgres.round_trips) == (1, 3)
    # Between BEGIN and COMMIT: the key's lock and answer, the locks, the ledger, the row, the read-back, the answer.
    assert len(sent_to_postgres(metered)) == 9
    with pytest.raises(Replayed):
        await products.write(adjust, Origin(idempotency_key=key))
    assert (metered.redis.round_trips, metered.postgres.round_trips) == (1, 3)
    metered.reset()
    other = replace(key, key="2")
    await asyncio.gather(products.write(adjust), products.write(adjust, Origin(idempotency_key=other)))
    assert metered.order.count("COMMIT") == 1
    assert (metered.redis.round_trips, metered.postgres.round_trips) == (1, 3)


@pytest.mark.guarantee("G7")
async def test_write_that_changes_nothing(metered: Metered) -> None:
    """It is read back, committed and published as any other (R10), in as many round trips; a refused one is not published."""
    [effect] = await metered.process.products.write(Put(draft(KEY)))
    assert effect.change is Change.UNCHANGED
    assert metered.postgres.round_trips == 2
    # Between BEGIN and COMMIT: the locks, the read-back.
    assert len(sent_to_postgres(metered)) == 4
    with pytest.raises(ProductsMissing):
        await metered.process.products.write(Adjust([Line("none", 1)], Reason.RECEIPT))
    assert metered.postgres.round_trips == 2


def sent_to_postgres(metered: Metered) -> list[str]:
    """The statements of one transaction, which the last publish follows."""
    statements = metered.order[:-2]
    assert (statements[0], statements[-1], metered.order[-2:]) == ("BEGIN", "COMMIT", ["EVALSHA", WHO])
    metered.reset()
    return statements


@pytest.mark.guarantee("G7")
async def test_reservations(metered: Metered) -> None:
    """Each command on a reservation has the round trips of an adjustment and at most four statements more, for any lines."""
    products = metered.process.products
    await products.write(Put(Draft("cup", "Cup", 1, 10)))
    await products.write(Upsert([replace(draft(f"p{number}"), stock=9) for number in range(50)]))
    metered.reset()
    await products.write(Adjust([Line("cup", -1)], Reason.SALE))
    assert (metered.redis.round_trips, metered.postgres.round_trips) == (1, 2)
    budget = len(sent_to_postgres(metered)) + 4
    made = await products.reserve(Reserve([RequestedLine("cup", 3)], 60))
    assert (metered.redis.round_trips, metered.postgres.round_trips) == (1, 2)
    assert len(sent_to_postgres(metered)) <= budget
    large = Reserve([RequestedLine(f"p{number % 50}", 1) for number in range(200)], 60, replaces=made.id)
    made = await products.reserve(large)
    assert (metered.redis.round_trips, metered.postgres.round_trips) == (1, 2)
    assert len(sent_to_postgres(metered)) <= budget
    for command in (Extend(made.id, 600), Commit(made.id, [Part(0, 1)]), Release(made.id, [Part(1, 1)]), Commit(made.id)):
        await products.reserve(command)
        assert (metered.redis.round_trips, metered.postgres.round_trips) == (1, 2)
        assert len(sent_to_postgres(metered)) <= budget


@pytest.mark.guarantee("G7")
async def test_units_of_ended_reservations(metered: Metered, database_url: str) -> None:
    """Whoever lacks units reads in a third round trip which reservations have ended; whoever does not lack any does not."""
    products = metered.process.products
    await products.write(Put(Draft("cup", "Cup", 1, 10)))
    made = [await products.reserve(Reserve([RequestedLine("cup", 3)], 60)) for _ in range(2)]
    await execute(
        database_url,
        "CREATE OR REPLACE FUNCTION larder_moment() RETURNS timestamptz LANGUAGE sql AS $$SELECT clock_timestamp() + '1h'$$",
    )
    metered.reset()
    await products.write(Adjust([Line("cup", -4)], Reason.SALE))
    assert (metered.redis.round_trips, metered.postgres.round_trips) == (1, 2)
    budget = len(sent_to_postgres(metered)) + 4
    await products.reserve(Reserve([RequestedLine("cup", 3)], 60))
    assert (metered.redis.round_trips, metered.postgres.round_trips) == (1, 3)
    assert len(sent_to_postgres(metered)) <= budget + 2
    assert (await products.reservation(made[1].id)).status.value == "held"
    metered.reset()
    await products.write(Adjust([Line("cup", -3)], Reason.SALE))
    assert (metered.redis.round_trips, metered.postgres.round_trips) == (1, 3)
    assert len(sent_to_postgres(metered)) <= budget
    assert [(await products.reservation(held.id)).status.value for held in made] == ["expired", "expired"]


@pytest.mark.guarantee("G7")
async def test_write_on_an_empty_slot(metered: Metered) -> None:
    """A write to an empty slot has one Redis round trip before its transaction and one after it, and fills the slot."""
    await metered.process.cache.drop(KEY)
    metered.reset()
    assert (await metered.process.write(set_stock(KEY, 1))).proven
    assert metered.order[:2] == ["EVALSHA", WHO]
    assert metered.order[-2:] == ["EVALSHA", WHO]
    assert (metered.redis.round_trips, metered.postgres.round_trips) == (2, 2)
    metered.reset()
    assert (await metered.process.cache.read(KEY)).status is Status.HIT


@pytest.mark.guarantee("G7")
@pytest.mark.parametrize("held", [True, False], ids=["filled", "empty"])
@pytest.mark.parametrize("policy", [WritePolicy.UPDATE, WritePolicy.ASIDE])
async def test_write_without_a_lease(metered: Metered, policy: WritePolicy, *, held: bool) -> None:
    """``update`` and ``aside`` make no Redis round trip before the transaction and one after it, whatever the slot holds."""
    if not held:
        await metered.process.cache.drop(KEY)
    metered.reset()
    assert (await metered.process.write(set_stock(KEY, 1), policy)).proven
    assert (metered.order[0], metered.order[-2:]) == ("BEGIN", ["EVALSHA", WHO])
    assert (metered.redis.round_trips, metered.postgres.round_trips) == (1, 2)
    read = await metered.process.cache.read(KEY)
    assert (read.status, read.state.version) == (Status.HIT if held and policy is WritePolicy.UPDATE else Status.STORED, 2)


@pytest.mark.guarantee("G7")
async def test_write_around(metered: Metered) -> None:
    """``around`` makes no Redis round trip, and is not proven."""
    assert not (await metered.process.write(set_stock(KEY, 1), WritePolicy.AROUND)).proven
    assert (metered.redis.round_trips, metered.postgres.round_trips) == (0, 2)
    await metered.process.trust()


@pytest.mark.guarantee("G7")
async def test_deletion_sends_no_payload(metered: Metered) -> None:
    """``aside`` sends at most 150 bytes a slot, names and all, however long the payloads are."""
    drafts = [replace(draft(f"p{number}"), name="🫖" * 200) for number in range(100)]
    await metered.process.write(Upsert(drafts))
    sent: dict[WritePolicy, int] = {}
    for policy in (WritePolicy.UPDATE, WritePolicy.ASIDE):
        metered.reset()
        await metered.process.write(Upsert([replace(item, stock=1 + len(sent)) for item in drafts]), policy)
        [sent[policy]] = metered.redis.script_bytes
    assert sent[WritePolicy.UPDATE] > 800 * len(drafts)
    assert sent[WritePolicy.ASIDE] <= 150 * len(drafts)


async def test_fifty_writes_at_once(metered: Metered) -> None:
    """Writes that come together share transactions and publishes."""
    await asyncio.gather(*(metered.process.products.write(set_stock(KEY, stock)) for stock in range(50)))
    assert (await metered.process.cache.read(KEY)).state.version == 51
    assert metered.order.count("COMMIT") <= 3
    assert metered.order.count("EVALSHA") <= 3


@pytest.mark.guarantee("G7")
async def test_audit_of_nothing(metered: Metered) -> None:
    """An audit that finds no change costs a few statements and two Redis round trips."""
    await metered.process.trust()
    metered.reset()
    await metered.process.trust()
    assert metered.redis.round_trips <= 3
    assert metered.postgres.round_trips <= 5
    assert len([text for text in metered.order if " " in text or text in ("BEGIN", "COMMIT")]) <= 8
