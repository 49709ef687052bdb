"""The places of the main transactions: which one a request goes to."""

import asyncio

import pytest

from app.cache.errors import Overloaded
from app.products.decision import Done
from app.products.reservation import RequestedLine
from app.products.reservation_commands import Commit, Reserve
from tests.harness.script import Gate
from tests.products.queues import Transactions, queue_of, send, submit, ticket_for, until


@pytest.fixture
def transactions() -> Transactions:
    return Transactions()


async def test_two_main_transactions(transactions: Transactions) -> None:
    """Requests are divided evenly between them, and each has one transaction at a time."""
    queue = queue_of(transactions, mains=2)
    gates = [transactions.gates.setdefault((name,), Gate()) for name in "ab"]
    tasks = [submit(queue, name) for name in "ab"]
    for gate in gates:
        await gate.arrival()
    tasks += [submit(queue, name) for name in "cdef"]
    await asyncio.sleep(0)
    assert queue.waiting == 4
    for gate in gates:
        gate.open()
    await asyncio.gather(*tasks)
    assert transactions.main == [("a",), ("b",), ("c", "e"), ("d", "f")]
    assert queue._mains._uses == {}


async def test_a_few_requests_share_one_main_transaction(transactions: Transactions) -> None:
    """The second one is used only while the first has many."""
    queue = queue_of(transactions, mains=2, many=3)
    gate = transactions.gates["a",] = Gate()
    tasks = [submit(queue, "a")]
    await gate.arrival()
    tasks += [submit(queue, name) for name in "bcd"]
    await tasks[-1]
    assert queue.waiting == 2
    gate.open()
    await asyncio.gather(*tasks)
    assert transactions.main == [("a",), ("d",), ("b", "c")]


async def test_a_product_is_in_one_main_transaction_at_a_time(transactions: Transactions) -> None:
    """Its later requests wait for that one, although the other is free, and are carried out in their order."""
    queue = queue_of(transactions, mains=2)
    gate = transactions.gates["a",] = Gate()
    first = submit(queue, "a")
    await gate.arrival()
    later = [submit(queue, "a"), submit(queue, "b", "a"), submit(queue, "b")]
    assert isinstance((await queue.submit(ticket_for("c")))[0], Done)
    assert queue.waiting == 3
    gate.open()
    await asyncio.gather(first, *later)
    assert transactions.main == [("a",), ("c",), ("a", "b,a", "b")]


async def test_an_unknown_reservation_goes_to_the_first_main_transaction(transactions: Transactions) -> None:
    """Its products are known only when it is read, so two of the same product must not be in two transactions."""
    queue = queue_of(transactions, mains=2)
    gate = transactions.gates["a",] = Gate()
    tasks = [submit(queue, "a")]
    await gate.arrival()
    tasks += [send(queue, Commit(name)) for name in ("r", "s")]
    await asyncio.sleep(0)
    assert queue.waiting == 2
    gate.open()
    await asyncio.gather(*tasks)
    assert transactions.main == [("a",), ("", "")]


@pytest.mark.parametrize("held", [set(), {"b"}], ids=["by a main transaction", "apart"])
async def test_a_reservation_made_here_goes_where_its_products_are(transactions: Transactions, held: set[str]) -> None:
    """A commit does not find the row of its product locked by a request in the other transaction."""
    queue = queue_of(transactions, mains=2)
    reserve = Reserve([RequestedLine("b", 1)], 60)
    transactions.held = held
    made = send(queue, reserve)
    if held:
        await until(transactions, 1)
        transactions.held = set()
    await made
    gates = [transactions.gates.setdefault((name,), Gate()) for name in ("a", "b")]
    tasks = [submit(queue, name) for name in ("a", "b")]
    for gate in gates:
        await gate.arrival()
    tasks.append(send(queue, Commit(reserve.id)))
    gates[0].open()
    await tasks[0]
    assert queue.waiting == 1
    gates[1].open()
    await asyncio.gather(*tasks)
    assert transactions.main == [("b",), ("a",), ("b",), ("",)]


async def test_main_queues_are_bounded_together(transactions: Transactions) -> None:
    """However many there are."""
    queue = queue_of(transactions, mains=2, queue_limit=3)
    gate = transactions.gates["a",] = Gate()
    tasks = [submit(queue, "a")]
    await gate.arrival()
    tasks += [submit(queue, "a") for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await queue.submit(ticket_for("b"))
    gate.open()
    await asyncio.gather(*tasks)
