"""The write queue without a database: who shares a transaction, who goes apart, and whose turn it is."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from app.cache.errors import Overloaded
from app.cache.write_through import Acknowledgement
from app.postgres.errors import ConnectionLost, DatabaseFailed, LockTimeout
from app.products.commands import UNSTAMPED, Adjust, Command, set_stock
from app.products.decision import Done, Postponed
from app.products.idempotency import WriteRequest
from app.products.main_places import OVERLAPPING
from app.products.product import Line, Reason
from app.products.reservation import HeldLine, Reservation, Status, Wanted
from app.products.reservation_commands import Commit, Reserve
from app.products.ticket import Outcome, Ticket
from app.products.transaction import Patience
from app.products.transactions import RowsHeld
from app.products.write_queue import CLOSE_S, STUCK_WAIT_MS, WAIT_MS, WriteQueue
from tests.harness.script import PATIENCE_S, Gate

Batch = tuple[str, ...]


@dataclass(slots=True)
class Transactions:
    """Postpones what needs a held product, or fails to get it; records what was sent. A batch may have a gate, or an error.

    Batches of several requests are held at ``published``, if it is set, when they are committed.
    """

    held: set[str] = field(default_factory=set)
    sent: list[tuple[Batch, Patience | None]] = field(default_factory=list)
    gates: dict[Batch, Gate] = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict)
    published: Gate | None = None
    under_way: int = 0
    most: int = 0

    @property
    def main(self) -> list[Batch]:
        return [names for names, patience in self.sent if patience is None]

    @property
    def apart(self) -> list[Batch]:
        return [names for names, patience in self.sent if patience is not None]

    async def send(
        self, batch: Sequence[WriteRequest], patience: Patience | None, committed: Callable[[], None]
    ) -> Sequence[Outcome]:
        names = tuple(",".join(request.command.keys) for request in batch)
        self.sent.append((names, patience))
        self.under_way += patience is not None
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(0)
            if gate := self.gates.get(names):
                await gate.enter()
            for name in names:
                if name in self.errors:
                    raise self.errors[name]
            if patience and self.held.intersection(patience.ids):
                await asyncio.sleep(0.001)
                raise RowsHeld("held")
            committed()
            if self.published and len(names) > 1:
                await self.published.enter()
            return [(self._decide(request), Acknowledgement(proven=True, committed_at=0.0)) for request in batch]
        finally:
            self.under_way -= patience is not None

    def _decide(self, request: WriteRequest) -> Done | Postponed:
        if held := sorted(self.held.intersection(request.command.keys)):
            return Postponed(held)
        if isinstance(command := request.command, Reserve):
            lines = [HeldLine(key, 1) for key in command.keys]
            return Done((), Reservation(command.id, None, Status.HELD, UNSTAMPED, 1, UNSTAMPED, UNSTAMPED, lines))
        return Done(())


@pytest.fixture
def transactions() -> Transactions:
    return Transactions()


def _queue(
    transactions: Transactions,
    *,
    mains: int = 1,
    places: int = 2,
    queue_limit: int = 1_000,
    many: int = 1,
    batch_weight: int = 10,
) -> WriteQueue:
    return WriteQueue(
        transactions.send,
        batch_weight=batch_weight,
        queue_limit=queue_limit,
        main_places=mains,
        places=places,
        many=many,
    )


def _ticket(*products: str, within_s: float = PATIENCE_S) -> Ticket:
    command = Adjust([Line(p, 1) for p in products], Reason.RECEIPT) if products[1:] else set_stock(products[0], 1)
    return Ticket(WriteRequest(command), asyncio.get_running_loop().time() + within_s)


def _submit(queue: WriteQueue, *products: str) -> "asyncio.Task[Outcome]":
    return asyncio.create_task(queue.submit(_ticket(*products)))


def _send(queue: WriteQueue, command: Command) -> "asyncio.Task[Outcome]":
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    return asyncio.create_task(queue.submit(Ticket(WriteRequest(command), deadline)))


async def _until(transactions: Transactions, attempts: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(transactions.apart) < attempts:
            await asyncio.sleep(0)


async def test_whatever_waits_shares_the_next_transaction(transactions: Transactions) -> None:
    """Whatever the products."""
    queue = _queue(transactions)
    gate = transactions.gates["a",] = Gate()
    tasks = [_submit(queue, "a")]
    await gate.arrival()
    tasks += [_submit(queue, product) for product in "bca"]
    await asyncio.sleep(0)
    assert queue.waiting == 3
    gate.open()
    await asyncio.gather(*tasks)
    assert transactions.sent == [(("a",), None), (("b", "c", "a"), None)]


async def test_two_main_transactions(transactions: Transactions) -> None:
    """Requests are divided evenly between them, and each has one transaction at a time."""
    queue = _queue(transactions, mains=2)
    gates = [transactions.gates.setdefault((name,), Gate()) for name in "ab"]
    tasks = [_submit(queue, name) for name in "ab"]
    for gate in gates:
        await gate.arrival()
    tasks += [_submit(queue, name) for name in "cdef"]
    await asyncio.sleep(0)
    assert queue.waiting == 4
    for gate in gates:
        gate.open()
    await asyncio.gather(*tasks)
    assert transactions.main == [("a",), ("b",), ("c", "e"), ("d", "f")]
    assert queue._mains._uses == {}


async def test_a_few_requests_share_one_main_transaction(transactions: Transactions) -> None:
    """The second one is used only while the first has many."""
    queue = _queue(transactions, mains=2, many=3)
    gate = transactions.gates["a",] = Gate()
    tasks = [_submit(queue, "a")]
    await gate.arrival()
    tasks += [_submit(queue, name) for name in "bcd"]
    await tasks[-1]
    assert queue.waiting == 2
    gate.open()
    await asyncio.gather(*tasks)
    assert transactions.main == [("a",), ("d",), ("b", "c")]


async def test_a_product_is_in_one_main_transaction_at_a_time(transactions: Transactions) -> None:
    """Its later requests wait for that one, although the other is free, and are carried out in their order."""
    queue = _queue(transactions, mains=2)
    gate = transactions.gates["a",] = Gate()
    first = _submit(queue, "a")
    await gate.arrival()
    later = [_submit(queue, "a"), _submit(queue, "b", "a"), _submit(queue, "b")]
    assert isinstance((await queue.submit(_ticket("c")))[0], Done)
    assert queue.waiting == 3
    gate.open()
    await asyncio.gather(first, *later)
    assert transactions.main == [("a",), ("c",), ("a", "b,a", "b")]


async def test_transactions_of_one_product_overlap(transactions: Transactions) -> None:
    """The next one begins when the one before is committed and not yet published, if nearly all requests are about one product.

    Each has half of the requests.
    """
    queue = _queue(transactions, mains=2, batch_weight=100)
    gate = transactions.gates["a",] = Gate()
    transactions.published = Gate()
    tasks = [_submit(queue, "a")]
    await gate.arrival()
    tasks += [_submit(queue, "a") for _ in range(OVERLAPPING)]
    await asyncio.sleep(0)
    gate.open()
    async with asyncio.timeout(PATIENCE_S):
        while len(transactions.main) < 3:
            await asyncio.sleep(0)
    assert not any(task.done() for task in tasks[1:])
    transactions.published.open()
    await asyncio.gather(*tasks)
    # The first request still counts when the second transaction begins.
    assert [len(names) for names in transactions.main] == [1, OVERLAPPING // 2 + 1, OVERLAPPING // 2 - 1]


async def test_transactions_in_two_places_overlap_each_other_only(transactions: Transactions) -> None:
    """Where both places have much to do, each has one transaction at a time until that is answered."""
    queue = _queue(transactions, mains=2, batch_weight=100)
    gates = [transactions.gates.setdefault((name,), Gate()) for name in "ab"]
    tasks = [_submit(queue, name) for name in "ab"]
    for gate in gates:
        await gate.arrival()
    tasks += [_submit(queue, name) for name in "ab" for _ in range(OVERLAPPING)]
    await asyncio.sleep(0)
    transactions.published = Gate()
    for gate in gates:
        gate.open()
    await transactions.published.arrival()
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(transactions.main) == 4
    transactions.published.open()
    await asyncio.gather(*tasks)
    assert [len(names) for names in transactions.main] == [1, 1, OVERLAPPING, OVERLAPPING]


async def test_an_unknown_reservation_goes_to_the_first_main_transaction(transactions: Transactions) -> None:
    """Its products are known only when it is read, so two of the same product must not be in two transactions."""
    queue = _queue(transactions, mains=2)
    gate = transactions.gates["a",] = Gate()
    tasks = [_submit(queue, "a")]
    await gate.arrival()
    tasks += [_send(queue, Commit(name)) for name in ("r", "s")]
    await asyncio.sleep(0)
    assert queue.waiting == 2
    gate.open()
    await asyncio.gather(*tasks)
    assert transactions.main == [("a",), ("", "")]


@pytest.mark.parametrize("held", [set(), {"b"}], ids=["by a main transaction", "apart"])
async def test_a_reservation_made_here_goes_where_its_products_are(transactions: Transactions, held: set[str]) -> None:
    """A commit does not find the row of its product locked by a request in the other transaction."""
    queue = _queue(transactions, mains=2)
    reserve = Reserve([Wanted("b", 1)], 60)
    transactions.held = held
    made = _send(queue, reserve)
    if held:
        await _until(transactions, 1)
        transactions.held = set()
    await made
    gates = [transactions.gates.setdefault((name,), Gate()) for name in ("a", "b")]
    tasks = [_submit(queue, name) for name in ("a", "b")]
    for gate in gates:
        await gate.arrival()
    tasks.append(_send(queue, Commit(reserve.id)))
    gates[0].open()
    await tasks[0]
    assert queue.waiting == 1
    gates[1].open()
    await asyncio.gather(*tasks)
    assert transactions.main == [("b",), ("a",), ("b",), ("",)]


async def test_main_queues_are_bounded_together(transactions: Transactions) -> None:
    """However many there are."""
    queue = _queue(transactions, mains=2, queue_limit=3)
    gate = transactions.gates["a",] = Gate()
    tasks = [_submit(queue, "a")]
    await gate.arrival()
    tasks += [_submit(queue, "a") for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await queue.submit(_ticket("b"))
    gate.open()
    await asyncio.gather(*tasks)


async def test_a_held_product_goes_apart_and_stays_there(transactions: Transactions) -> None:
    """Later requests for it leave the main transaction alone; when it is free they share one, and it is as others again."""
    transactions.held = {"h"}
    queue = _queue(transactions)
    first = _submit(queue, "h")
    await _until(transactions, 1)
    assert isinstance((await queue.submit(_ticket("a")))[0], Done)
    more = [_submit(queue, "h") for _ in range(3)]
    await asyncio.sleep(0)
    transactions.held = set()
    await asyncio.gather(first, *more)
    assert transactions.main == [("h",), ("a",)]
    assert transactions.apart[-1] == ("h",) * 4
    async with asyncio.timeout(PATIENCE_S):
        while queue._queues:
            await asyncio.sleep(0)
    await queue.submit(_ticket("h"))
    assert transactions.main[-1] == ("h",)


async def test_the_first_attempt_waits_longer(transactions: Transactions) -> None:
    """A product that is merely contended gets its row at once; one that is stuck gives its turn back sooner."""
    transactions.held = {"h"}
    queue = _queue(transactions)
    task = _submit(queue, "h")
    await _until(transactions, 3)
    waits = [patience.wait_ms for _, patience in transactions.sent if patience]
    assert waits[:3] == [WAIT_MS, STUCK_WAIT_MS, STUCK_WAIT_MS]
    transactions.held = set()
    await task


@pytest.mark.parametrize("places", [1, 2, 5])
async def test_stuck_products_leave_places_to_others(transactions: Transactions, places: int) -> None:
    """However many are stuck, one that is only contended has its attempt after the one under way, and places are kept."""
    transactions.held = {f"h{number}" for number in range(50)}
    queue = _queue(transactions, places=places)
    late = [_submit(queue, name) for name in sorted(transactions.held)]
    await _until(transactions, 200)
    before = len(transactions.apart)
    transactions.held.add("c")
    contended = _submit(queue, "c")
    async with asyncio.timeout(PATIENCE_S):
        while "c" not in queue._queues:
            await asyncio.sleep(0)
    transactions.held.discard("c")
    await contended
    assert transactions.apart.index(("c",)) - before <= 2 * places + 2
    assert transactions.most <= places
    # Every stuck one has its turn.
    await _until(transactions, len(transactions.apart) + 120)
    turns = transactions.apart[before:]
    assert {names[0] for names in turns} >= transactions.held
    transactions.held = set()
    await asyncio.gather(*late)


async def test_a_request_for_several_held_products_waits_for_one_in_the_end(transactions: Transactions) -> None:
    """First for all of them, in order; when that was in vain for the last alone, so that it holds none while it waits."""
    transactions.held = {"b", "c"}
    queue = _queue(transactions)
    task = _submit(queue, "a", "b", "c")
    await _until(transactions, 2)
    transactions.held = {"b"}
    await _until(transactions, 4)
    waits = [list(patience.ids) for _, patience in transactions.sent if patience]
    assert waits[0] == ["b", "c"]
    assert all(len(ids) == 1 for ids in waits[1:])
    transactions.held = set()
    assert isinstance((await task)[0], Done)


async def test_a_batch_that_fails_is_done_one_by_one(transactions: Transactions) -> None:
    """The guilty fail alone, with their own error, and hold nobody up; who has left is not tried again.

    A lost connection is everybody's.
    """
    queue = _queue(transactions)
    gate, together, alone = Gate(), Gate(), Gate()
    innocent = [f"p{number}" for number in range(7)]
    transactions.gates = {("z",): gate, ("g", "left", *innocent): together, ("g",): alone}
    opener = _submit(queue, "z")
    await gate.arrival()
    transactions.errors = {"g": DatabaseFailed("guilty")}
    guilty, left, *others = [_submit(queue, name) for name in ("g", "left", *innocent)]
    gate.open()
    await together.arrival()
    left.cancel()
    together.open()
    await alone.arrival()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(opener, *others, _submit(queue, "later"))
    assert not guilty.done()
    alone.open()
    with pytest.raises(DatabaseFailed):
        await guilty
    assert transactions.main == [("z",), ("g", "left", *innocent), ("later",)]
    assert sorted(transactions.apart) == [("g",), *((name,) for name in innocent)]
    transactions.errors = {"g": ConnectionLost("lost")}
    both = await asyncio.gather(_submit(queue, "g"), _submit(queue, "a"), return_exceptions=True)
    assert isinstance(both[0], ConnectionLost)


async def test_a_conflict_is_tried_again_until_it_is_over(transactions: Transactions) -> None:
    """A lock other than a row's: alone, and behind the others of its product."""
    transactions.errors = {"g": LockTimeout("an id that is being created")}
    queue = _queue(transactions)
    task = _submit(queue, "g")
    await _until(transactions, 3)
    assert not task.done()
    transactions.errors = {}
    assert isinstance((await task)[0], Done)


async def test_nothing_is_done_for_who_has_left(transactions: Transactions) -> None:
    """Whether it waits in the main queue, in a transaction that will postpone it, or apart; nothing is left behind."""
    transactions.held = {"h", "i"}
    queue = _queue(transactions)
    apart = _submit(queue, "h")
    await _until(transactions, 1)
    gate = transactions.gates["i",] = Gate()
    postponed = _submit(queue, "i")
    await gate.arrival()
    waiting = _submit(queue, "w")
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
    queue = _queue(transactions)
    ticket = _ticket("h", within_s=CLOSE_S / 2)
    with pytest.raises(Overloaded):
        await queue.submit(ticket)
    assert not ticket.under_way
    assert transactions.apart == []
    await queue.aclose()


async def test_queues_are_bounded(transactions: Transactions) -> None:
    """A tenth of the places apart for one product, beyond which a request is refused at once."""
    transactions.held = {"h"}
    queue = _queue(transactions, queue_limit=30)
    tasks = [_submit(queue, "h")]
    await _until(transactions, 1)
    tasks += [_submit(queue, "h") for _ in range(20)]
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
    queue = _queue(transactions)
    task = _submit(queue, "h")
    await _until(transactions, 1)
    closing = asyncio.create_task(queue.aclose())
    await asyncio.sleep(0)
    assert not closing.done()
    transactions.held = set()
    await closing
    assert isinstance((await task)[0], Done)
