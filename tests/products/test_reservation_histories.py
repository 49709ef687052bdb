"""Random histories of reservations against a model in plain Python, without a tidier, one by one and joined in one batch.

The rules are also run with a guard switched off: each such mutant is caught.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import psycopg
import pytest

from app.postgres.database import Database
from app.products.commands import Adjust
from app.products.decision import Denied, Done
from app.products.errors import ReservationExpired, TooManyEnded
from app.products.idempotency import WriteRequest
from app.products.product import Line, Reason
from app.products.reservation import RequestedLine, Reservation, Status
from app.products.reservation_commands import Commit, Reserve
from app.products.shelf import Shelf
from tests.products.reservation_histories import BEGIN, TEST_CLOCK, History, OnMemory, OnPostgres, Service
from tests.products.reservation_mutants import BY_NAME


@pytest.fixture
async def on_postgres(database: Database, database_url: str) -> AsyncIterator[OnPostgres]:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as hand:
        await hand.execute(TEST_CLOCK)
        yield OnPostgres(database, hand)


EVERY_ANSWER = {
    "ok", "InsufficientStock", "NotHeld", "ProductReserved", "ProductsMissing", "ReservationClosed", "ReservationExpired",
    "AlreadyExists",
}  # fmt: skip


async def histories(shelf: type[Shelf] = Shelf) -> set[str]:
    """Run many histories on the fake; return what was said."""
    heard = set()
    for seed in range(60):
        heard |= await OnMemory(shelf).run(History(random.Random(seed)), steps=60, joined=1)
    return heard


async def reserve(service: Service, life_s: int, **units: int) -> Reservation:
    """Hold units."""
    command = Reserve([RequestedLine(key, quantity) for key, quantity in units.items()], life_s)
    [decision] = (await service.transactions.commit([WriteRequest(command)])).decisions
    assert isinstance(decision, Done), decision
    assert decision.reservation is not None
    return decision.reservation


async def clock_goes_back(service: Service) -> None:
    """What was over for one is never alive for the next, and a new hold ends after all moments that its product knows."""
    await service.stock()
    first = await reserve(service, 5, a=10, b=1)
    await service.at(BEGIN + timedelta(seconds=100))
    await reserve(service, 1, a=10)
    await service.at(BEGIN + timedelta(seconds=1))
    [decision] = (await service.transactions.commit([WriteRequest(Commit(first.id))])).decisions
    assert isinstance(decision, Denied)
    assert isinstance(decision.refusal, ReservationExpired)
    assert (await service.source.reservations.get(first.id)).status is Status.EXPIRED
    last = await reserve(service, 1, b=10)
    await service.at(BEGIN + timedelta(seconds=101))
    await reserve(service, 9, a=10)
    await service.at(BEGIN + timedelta(seconds=2))
    await service.transactions.commit([WriteRequest(Adjust([Line("a", 1)], Reason.RECEIPT))])
    again = await reserve(service, 1, a=1)
    assert again.expires_at > BEGIN + timedelta(seconds=101)
    assert last.expires_at > BEGIN
    await service.check()


async def half_of_the_ended(service: Service) -> None:
    """Who needs some of the units leaves the others, and the next who needs them finds them."""
    await service.stock()
    for life_s in (2, 4, 4, 6):
        await reserve(service, life_s, a=2)
    await service.at(BEGIN + timedelta(seconds=50))
    for units in (4, 1, 5):
        await reserve(service, 1, a=units)
        await service.check()


SCENARIOS = (clock_goes_back, half_of_the_ended)


async def everything(shelf: type[Shelf]) -> None:
    """Run the scenarios and the histories on the fake."""
    for scenario in SCENARIOS:
        await scenario(OnMemory(shelf))
    await histories(shelf)


async def test_rules_against_the_model() -> None:
    """The rules by themselves, over many histories: each decision is the model's, and every kind of answer occurs."""
    assert await histories() == EVERY_ANSWER


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_scenarios_of_time(on_postgres: OnPostgres, scenario: Callable[[Service], Awaitable[None]]) -> None:
    """They end well on the fake and on PostgreSQL."""
    await scenario(OnMemory())
    await scenario(on_postgres)


@pytest.mark.parametrize("mutant", BY_NAME.values())
async def test_a_guard_that_is_switched_off_is_noticed(mutant: type[Shelf]) -> None:
    """Each mutant of the rules is caught by a history or by a scenario."""
    with pytest.raises(AssertionError):
        await everything(mutant)


async def test_more_ended_lines_than_one_request_may_close() -> None:
    """It is never refused for lack of stock: it is asked to come again, and each time it gets nearer."""
    service = OnMemory(limit=3)
    await service.stock()
    for _ in range(10):
        await reserve(service, 1, a=1)
    await service.at(BEGIN + timedelta(seconds=9))
    request = WriteRequest(Adjust([Line("a", -10)], Reason.SALE))
    for _ in range(3):
        [decision] = (await service.transactions.commit([request])).decisions
        assert isinstance(decision, Denied)
        assert isinstance(decision.refusal, TooManyEnded)
        assert decision.closed
    [decision] = (await service.transactions.commit([request])).decisions
    assert isinstance(decision, Done)


async def test_both_refusals_of_one_transaction_wait(on_postgres: OnPostgres) -> None:
    """Two requests name a hold that is over. The first one closes it, and both answers wait until every reader can see that."""
    await on_postgres.stock()
    made = await reserve(on_postgres, 1, a=1)
    await on_postgres.at(BEGIN + timedelta(seconds=9))
    committed = await on_postgres.transactions.commit([WriteRequest(Commit(made.id)), WriteRequest(Commit(made.id))])
    assert [isinstance(decision, Denied) and decision.closed for decision in committed.decisions] == [True, True]


@pytest.mark.parametrize(("seed", "joined"), [(2, 1), (6, 6)])
async def test_transactions_against_the_model(on_postgres: OnPostgres, seed: int, joined: int) -> None:
    """In PostgreSQL, too; and after every step ledger, lines and products add up."""
    heard = await on_postgres.run(History(random.Random(seed)), steps=100, joined=joined)
    assert heard >= {"ok", "InsufficientStock", "ProductReserved", "ReservationClosed", "ReservationExpired"}
