"""The write queue without a database: who shares a transaction, who goes apart, and whose turn it is."""

import asyncio
from contextlib import suppress

import pytest

from app.cache.errors import Overloaded
from app.postgres.errors import ConnectionLost, DatabaseFailed, LockTimeout
from app.products.decision import Done
from app.products.write_queue import LEAST_TIME_LEFT_S, STUCK_WAIT_MS, WAIT_MS
from tests.harness.script import PATIENCE_S, Gate
from tests.products.queues import Transactions, queue_of, submit, ticket_for, until


@pytest.fixture
def transactions() -> Transactions:
    return Transactions()


async def test_whatever_waits_shares_the_next_transaction(transactions: Transactions) -> None:
    """Whatever the products."""
    queue = queue_of(transactions)
    gate = transactions.gates["a",] = Gate()
    tasks = [submit(queue, "a")]
    await gate.arrival()
    tasks += [submit(queue, product) for product in "bca"]
    await asyncio.sleep(0)
    assert queue.waiting == 3
    gate.open()
    await asyncio.gather(*tasks)
    assert transactions.sent == [(("a",), None), (("b", "c", "a"), None)]


async def test_a_held_product_goes_apart_and_stays_there(transactions: Transactions) -> None:
    """Later requests for it leave the main transaction alone; when it is free they share one, and it is as others again."""
    transactions.held = {"h"}
    queue = queue_of(transactions)
    first = submit(queue, "h")
    await until(transactions, 1)
    assert isinstance((await queue.submit(ticket_for("a")))[0], Done)
    more = [submit(queue, "h") for _ in range(3)]
    await asyncio.sleep(0)
    transactions.held = set()
    await asyncio.gather(first, *more)
    assert transactions.main == [("h",), ("a",)]
    assert transactions.apart[-1] == ("h",) * 4
    async with asyncio.timeout(PATIENCE_S):
        while queue._queues:
            await asyncio.sleep(0)
    await queue.submit(ticket_for("h"))
    assert transactions.main[-1] == ("h",)


async def test_the_first_attempt_waits_longer(transactions: Transactions) -> None:
    """A product that is merely contended gets its row at once; one that is stuck gives its turn back sooner."""
    transactions.held = {"h"}
    queue = queue_of(transactions)
    task = submit(queue, "h")
    await until(transactions, 3)
    waits = [patience.wait_ms for _, patience in transactions.sent if patience]
    assert waits[:3] == [WAIT_MS, STUCK_WAIT_MS, STUCK_WAIT_MS]
    transactions.held = set()
    await task


@pytest.mark.parametrize("places", [1, 2, 5])
async def test_stuck_products_leave_places_to_others(transactions: Transactions, places: int) -> None:
    """However many are stuck, one that is only contended has its attempt after the one under way, and places are kept."""
    transactions.held = {f"h{number}" for number in range(50)}
    queue = queue_of(transactions, places=places)
    late = [submit(queue, name) for name in sorted(transactions.held)]
    await until(transactions, 200)
    before = len(transactions.apart)
    transactions.held.add("c")
    contended = submit(queue, "c")
    async with asyncio.timeout(PATIENCE_S):
        while "c" not in queue._queues:
            await asyncio.sleep(0)
    transactions.held.discard("c")
    await contended
    assert transactions.apart.index(("c",)) - before <= 2 * places + 2
    assert transactions.most <= places
    # Every stuck one has its turn.
    await until(transactions, len(transactions.apart) + 120)
    turns = transactions.apart[before:]
    assert {names[0] for names in turns} >= transactions.held
    transactions.held = set()
    await asyncio.gather(*late)


async def test_a_request_for_several_held_products_waits_for_one_in_the_end(transactions: Transactions) -> None:
    """First for all of them, in order; when that was in vain for the last alone, so that it holds none while it waits."""
    transactions.held = {"b", "c"}
    queue = queue_of(transactions)
    task = submit(queue, "a", "b", "c")
    await until(transactions, 2)
    transactions.held = {"b"}
    await until(transactions, 4)
    waits = [list(patience.ids) for _, patience in transactions.sent if patience]
    assert waits[0] == ["b", "c"]
    assert all(len(ids) == 1 for ids in waits[1:])
    transactions.held = set()
    assert isinstance((await task)[0], Done)


async def test_a_batch_that_fails_is_done_one_by_one(transactions: Transactions) -> None:
    """The guilty fail alone, with their own error, and hold nobody up; who has left is not tried again.

    A lost connection is everybody's.
    """
    queue = queue_of(transactions)
    gate, together, alone = Gate(), Gate(), Gate()
    innocent = [f"p{number}" for number in range(7)]
    transactions.gates = {("z",): gate, ("g", "left", *innocent): together, ("g",): alone}
    opener = submit(queue, "z")
    await gate.arrival()
    transactions.errors = {"g": DatabaseFailed("guilty")}
    guilty, left, *others = [submit(queue, name) for name in ("g", "left", *innocent)]
    gate.open()
    await together.arrival()
    left.cancel()
    together.open()
    await alone.arrival()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(opener, *others, submit(queue, "later"))
    assert not guilty.done()
    alone.open()
    with pytest.raises(DatabaseFailed):
        await guilty
    assert transactions.main == [("z",), ("g", "left", *innocent), ("later",)]
    assert sorted(transactions.apart) == [("g",), *((name,) for name in innocent)]
    transactions.errors = {"g": ConnectionLost("lost")}
    both = await asyncio.gather(submit(queue, "g"), submit(queue, "a"), return_exceptions=True)
    assert isinstance(both[0], ConnectionLost)


async def test_a_conflict_is_tried_again_until_it_is_over(transactions: Transactions) -> None:
    """A lock other than a row's: alone, and behind the others of its product."""
    transactions.errors = {"g": LockTimeout("an id that is being created")}
    queue = queue_of(transactions)
    task = submit(queue, "g")
    await until(transactions, 3)
    assert not task.done()
    transactions.errors = {}
    assert isinstance((await task)[0], Done)


async def test_nothing_is_done_for_who_has_left(transactions: Transactions) -> None:
    """Whether it waits in the main queue, in a transaction that will postpone it, or apart; nothing is left behind."""
    transactions.held = {"h", "i"}
    queue = queue_of(transactions)
    apart = submit(queue, "h")
    await until(transactions, 1)
    gate = transactions.gates["i",] = Gate()
    postponed = submit(queue, "i")
    await gate.arrival()
    waiting = submit(queue, "w")
    await asyncio.sleep(0)
    for task in (apart, postponed, waiting):
        task.cancel()
    with suppress(asyncio.CancelledError):
        await postponed
    gate.open()
    await queue.aclose()
    transactions.held = set()
    assert ("w",) not in transactions.main
    assert ("i",) not in transactions.apart
    assert (queue.waiting, queue._queues) == (0, {})


async def test_a_request_near_its_deadline_is_not_tried_again(transactions: Transactions) -> None:
    """It must not pass its deadline inside a transaction: it ends as one that never began."""
    transactions.held = {"h"}
    queue = queue_of(transactions)
    ticket = ticket_for("h", within_s=LEAST_TIME_LEFT_S / 2)
    with pytest.raises(Overloaded):
        await queue.submit(ticket)
    assert not ticket.under_way
    assert transactions.apart == []
    await queue.aclose()


async def test_queues_are_bounded(transactions: Transactions) -> None:
    """A tenth of the places apart for one product, beyond which a request is refused at once."""
    transactions.held = {"h"}
    queue = queue_of(transactions, queue_limit=30)
    tasks = [submit(queue, "h")]
    await until(transactions, 1)
    tasks += [submit(queue, "h") for _ in range(20)]
    await asyncio.sleep(0)
    refused = [task for task in tasks if task.done()]
    assert 16 <= len(refused) <= 18
    for task in refused:
        with pytest.raises(Overloaded):
            await task
    transactions.held = set()
    await asyncio.gather(*(task for task in tasks if task not in refused))


async def test_closing_finishes_what_was_accepted(transactions: Transactions) -> None:
    """Also what is apart."""
    transactions.held = {"h"}
    queue = queue_of(transactions)
    task = submit(queue, "h")
    await until(transactions, 1)
    closing = asyncio.create_task(queue.aclose())
    await asyncio.sleep(0)
    assert not closing.done()
    transactions.held = set()
    await closing
    assert isinstance((await task)[0], Done)
