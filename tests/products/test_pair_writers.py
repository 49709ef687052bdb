"""Writers of a database whose buckets move: what was begun before is finished, and nothing else is begun."""

import asyncio

import psycopg
import pytest

from app.products.acceptance import Acceptance, Accepted
from app.products.accepted import AcceptedStats, AcceptedWrite, Queued
from app.products.commands import set_stock
from app.products.decision import Denied, Done, Postponed
from app.products.errors import BucketMoving, NotHere, Refused
from app.products.idempotency import WriteRequest
from app.products.pair import Pair
from app.products.pair_move import CannotMove
from app.products.transactions import ProductTransactions
from tests.harness.servers import execute
from tests.products.instances import once
from tests.products.two import CREATE, HOLD, LEAVING, RESERVE, STAYING, Two, by_hand

_ACCEPTED = """
INSERT INTO accepted_writes (caller, key, request_hash, product_ids, operation, target, conditions, body)
VALUES ('till', %s, '', %s, 'o', 't', '[]', '')
"""


class _Forgetful(Pair):
    """A process that takes note of an older reading as soon as a write has read the buckets."""

    def read(self, ranges: str, moving: str, asked_at: float) -> None:
        """Note nothing."""


async def test_a_writer_reads_the_buckets_behind_its_locks(two: Two) -> None:
    """A request that passed every check before the move began is decided by what the database says now."""
    await by_hand(two.urls["a"], CREATE, LEAVING, 7)
    transactions = ProductTransactions(two.databases["a"], pair=_Forgetful("0-511"))

    async def refusal() -> type[Refused] | None:
        [decision] = (await transactions.commit([WriteRequest(set_stock(LEAVING, 9))])).decisions
        return type(decision.refusal) if isinstance(decision, Denied) else None

    assert await refusal() is None
    for held, moving, expected in (
        ("0-511", "500 m", BucketMoving),
        ("0-499,501-511", "500 m", BucketMoving),
        ("0-3", "", NotHere),
    ):
        await by_hand(two.urls["a"], "UPDATE pair_buckets SET held = %s, moving = %s", held, moving)
        assert await refusal() is expected
    await by_hand(two.urls["a"], "DELETE FROM pair_buckets")
    assert await refusal() is NotHere
    assert (await two.rows("a"))[LEAVING][0] == 9


async def test_what_was_accepted_before_is_decided_and_not_refused(two: Two) -> None:
    """While the bucket is here, it is carried out. Afterwards it would wait: a refusal would be kept as its answer."""
    await by_hand(two.urls["a"], CREATE, LEAVING, 7)

    async def decode(write: AcceptedWrite) -> WriteRequest:
        return WriteRequest(set_stock(LEAVING, int(write.key)), once(write.key))

    transactions = ProductTransactions(two.databases["a"], pair=Pair("0-511"), decode=decode)
    for key, held, expected in (("1", "0-511", Done), ("2", "0-499,501-511", Postponed)):
        await by_hand(two.urls["a"], _ACCEPTED, key, [LEAVING])
        await by_hand(two.urls["a"], "UPDATE pair_buckets SET held = %s, moving = '500 m'", held)
        assert [type(decision) for decision in (await transactions.apply(decode)).taken] == [expected]
    assert await execute(two.urls["a"], "SELECT key FROM accepted_writes") == [("2",)]
    assert await execute(two.urls["a"], "SELECT key FROM idempotency_records") == [("1",)]
    assert (await two.rows("a"))[LEAVING][0] == 1


async def test_nothing_is_accepted_for_a_bucket_that_moves(two: Two) -> None:
    """The process does not know it yet; it reads the buckets in the transaction that accepts."""
    acceptance = Acceptance(
        two.databases["a"], lambda _epoch, _asked_at: None, AcceptedStats(), queue_limit=10, pair=_Forgetful("0-511")
    )

    async def accept(key: str) -> Accepted:
        return await acceptance.accept(AcceptedWrite("", key, b"", [LEAVING], "o", "t", "[]", b"", None))

    assert await accept("1") == Queued()
    for held, moving, expected in (("0-511", "500 m", BucketMoving), ("0-499", "500 m", BucketMoving), ("0-3", "", NotHere)):
        await by_hand(two.urls["a"], "UPDATE pair_buckets SET held = %s, moving = %s", held, moving)
        assert await accept("1") == Queued()
        with pytest.raises(expected):
            await accept("2")
    await acceptance.aclose()
    assert await execute(two.urls["a"], "SELECT key FROM accepted_writes") == [("1",)]


_FENCES = {
    "row": "SELECT FROM products WHERE id = %s FOR NO KEY UPDATE",
    "no row": "SELECT FROM products WHERE id = 'nowhere' AND id <> %s FOR NO KEY UPDATE",
    "accepted": "LOCK TABLE accepted_writes IN ROW EXCLUSIVE MODE",
}


@pytest.mark.parametrize("case", ["change", "creation", "hold", "acceptance"])
async def test_a_move_waits_for_writers_that_began_before(two: Two, case: str) -> None:
    """Whoever has locked a product, or begun to accept, and read which buckets are here, finishes before the move goes on."""
    lock = {"change": "row", "creation": "no row", "hold": "row", "acceptance": "accepted"}[case]
    if case != "creation":
        await by_hand(two.urls["a"], CREATE, LEAVING, 7)
    async with await psycopg.AsyncConnection.connect(two.urls["a"]) as writer:
        await writer.execute(_FENCES[lock].encode(), [LEAVING] if lock != "accepted" else None)
        moving = asyncio.create_task(two.move("500", waiting_s=0.3 if case == "acceptance" else 10))
        await two.until_told("writes are refused", moving)
        await two.until_asked_again()
        assert len(two.said) == 1
        assert (await two.held())[0] == ("0-511", "500")
        if case == "change":
            await writer.execute("UPDATE products SET stock = 4 WHERE id = %s", [LEAVING])
        elif case == "creation":
            await writer.execute(CREATE, [LEAVING, 4])
        elif case == "hold":
            await writer.execute("UPDATE products SET reserved = 2 WHERE id = %s", [LEAVING])
            await writer.execute(RESERVE, ["0" * 32, "held", None])
            await writer.execute(HOLD, ["0" * 32, LEAVING, 0])
        else:
            await writer.execute(_ACCEPTED, ["k", [LEAVING]])
        await writer.commit()
        if case in ("change", "creation"):
            assert await moving == 1
            assert (await two.rows("b"))[LEAVING][0] == 4
            return
        refusal = f"units of {LEAVING} are held" if case == "hold" else f"an accepted write for {LEAVING} waits"
        with pytest.raises(CannotMove, match=refusal):
            await moving
    assert await two.held() == [("0-511", ""), ("512-1023", "")]


async def test_a_move_holds_up_no_writer(two: Two) -> None:
    """While it waits for an earlier transaction, writers of other products get their locks at once."""
    for product_id in (LEAVING, STAYING):
        await by_hand(two.urls["a"], CREATE, product_id, 7)
    async with await psycopg.AsyncConnection.connect(two.urls["a"]) as writer:
        await writer.execute(_FENCES["row"].encode(), [LEAVING])
        moving = asyncio.create_task(two.move("500"))
        await two.until_told("writes are refused", moving)
        await two.until_asked_again()
        await by_hand(two.urls["a"], "SET lock_timeout = '1s'")
        await by_hand(two.urls["a"], "UPDATE products SET stock = 6 WHERE id = %s", STAYING)
        assert not moving.done()
    assert await moving == 1


async def test_products_leave_when_nobody_relies_on_an_earlier_reading(two: Two) -> None:
    """Between the end of reads and the tombstones lies the time for which a process goes on with what it has read."""
    await by_hand(two.urls["a"], CREATE, LEAVING, 7)
    clock = asyncio.get_running_loop().time
    two.stops_at = "reads are refused"
    moving = asyncio.create_task(two.move("500", good_for_s=0.4))
    await two.until_told("reads are refused", moving)
    began = clock()
    two.go.set()
    assert await two.rows("a") == {LEAVING: (7, 1, True)}
    await two.until_told("have left", moving)
    assert clock() - began >= 0.4
    assert await moving == 1
