"""The contract of reservations: what a command does to products, reservation and ledger, on the fake and on PostgreSQL."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest

from app.products.commands import Adjust, Command, Create, delete, set_stock
from app.products.decision import Denied, Done
from app.products.errors import (
    InsufficientStock,
    NotHeld,
    ProductReserved,
    ProductsMissing,
    Refused,
    ReservationChanged,
    ReservationClosed,
    ReservationMissing,
)
from app.products.idempotency import WriteRequest
from app.products.product import Draft, Line, Precondition, Product, Reason
from app.products.reservation import HeldLine, Part, RequestedLine, Reservation, Status
from app.products.reservation_commands import Commit, Extend, Release, Reserve, Rest
from app.products.source import ProductSource
from app.products.transactions import ProductTransactions
from tests.fakes.products import MemoryProducts, MemoryTransactions
from tests.limits import open_database


@dataclass(frozen=True, slots=True)
class Shop:
    """Tables, and what writes and reads them."""

    transactions: ProductTransactions
    source: ProductSource

    async def done(self, command: Command) -> Done:
        """Carry out a command that is not refused."""
        [decision] = (await self.transactions.commit([WriteRequest(command)])).decisions
        assert isinstance(decision, Done), decision
        return decision

    async def held(self, command: Command) -> Reservation:
        """Carry out a command on a reservation; return what it is then, which is what a read finds."""
        reservation = (await self.done(command)).reservation
        assert reservation is not None
        assert await self.source.reservations.get(reservation.id) == reservation
        return reservation

    async def refusal(self, command: Command) -> Refused:
        """Try a command that is refused."""
        [decision] = (await self.transactions.commit([WriteRequest(command)])).decisions
        assert isinstance(decision, Denied), decision
        return decision.refusal

    async def stock(self, product_id: str) -> tuple[int, int | None, int]:
        """Stock, held units and version of a product."""
        [(product, _)] = [
            found for found in await self.source.page(limit=9, after=None, prefix="") if found[0].id == product_id
        ]
        return product.stock, product.reserved, product.version

    async def ledger(self, product_id: str) -> list[tuple[Reason, int, int]]:
        """A product's movements, the oldest first: reason, change of the stock, change of the held units."""
        found = await self.source.movements(product_id, limit=99, after=None)
        return [(m.reason, m.delta, m.reserved_delta) for m in reversed(found)]


@pytest.fixture
async def shop(postgres_at: tuple[str, str] | None) -> AsyncIterator[Shop]:
    if postgres_at is None:
        products = MemoryProducts()
        yield await stocked(Shop(MemoryTransactions(products), products))
        return
    database = open_database(postgres_at[0])
    yield await stocked(Shop(ProductTransactions(database), ProductSource(database)))
    await database.close()


async def stocked(shop: Shop) -> Shop:
    """Put ten units of two products into it."""
    for product_id in "ab":
        await shop.done(Create(Draft(product_id, product_id, 1, 10)))
    return shop


def wanted(**units: int) -> list[RequestedLine]:
    return [RequestedLine(product_id, quantity) for product_id, quantity in units.items()]


def counters(reservation: Reservation) -> list[tuple[int, int, int, int]]:
    """What is open, committed, released and expired of each line."""
    return [(line.open, line.committed, line.released, line.expired) for line in reservation.lines]


async def test_hold_commit(shop: Shop) -> None:
    """Held units stay in stock and are not free; a commit sells them in one row of the ledger."""
    made = await shop.held(Reserve(wanted(a=3, b=2), 60, "cart"))
    assert (made.status, made.version, made.reference) == (Status.HELD, 1, "cart")
    assert list(made.lines) == [HeldLine("a", 3), HeldLine("b", 2)]
    assert (made.expires_at - made.created_at).total_seconds() == 60
    assert await shop.stock("a") == (10, 3, 2)
    sold = await shop.held(Commit(made.id))
    assert (sold.status, sold.version, counters(sold)) == (Status.COMMITTED, 2, [(0, 3, 0, 0), (0, 2, 0, 0)])
    assert await shop.stock("a") == (7, 0, 3)
    assert await shop.ledger("a") == [(Reason.OPENING, 10, 0), (Reason.HOLD, 0, 3), (Reason.SALE, -3, -3)]
    [*_, sale] = reversed(await shop.source.movements("a", limit=9, after=None))
    assert (sale.reservation_id, sale.reference, sale.reserved_after, sale.stock_after) == (made.id, "cart", 0, 7)


async def test_held_units_are_nobody_elses(shop: Shop) -> None:
    """Neither another hold nor a sale takes them, a count may say that they are missing, and a fact takes them."""
    made = await shop.held(Reserve(wanted(a=8), 60))
    for command in (Reserve(wanted(a=3), 60), Adjust([Line("a", -3)], Reason.SALE)):
        refusal = await shop.refusal(command)
        assert isinstance(refusal, InsufficientStock)
        [short] = refusal.shortages
        assert (short.available, short.requested, short.stock, short.reserved) == (2, 3, 10, 8)
    await shop.done(Adjust([Line("a", -2)], Reason.SALE))
    await shop.done(Adjust([Line("a", -3)], Reason.DAMAGE, take_reserved=True))
    assert await shop.stock("a") == (5, 8, 4)
    assert isinstance(await shop.refusal(Adjust([Line("a", -6)], Reason.DAMAGE, take_reserved=True)), InsufficientStock)
    await shop.done(set_stock("a", 4))
    refusal = await shop.refusal(Commit(made.id))
    assert isinstance(refusal, InsufficientStock)
    assert refusal.shortages[0].available == 4
    part = await shop.held(Commit(made.id, [Part(0, 4)]))
    assert (part.status, counters(part)) == (Status.HELD, [(4, 4, 0, 0)])
    assert await shop.stock("a") == (0, 4, 6)
    await shop.done(Adjust([Line("a", 1)], Reason.RETURN))
    assert await shop.stock("a") == (1, 4, 7)


async def test_all_lines_or_none(shop: Shop) -> None:
    """A product may repeat: the sum counts. A line that cannot be held holds back the others."""
    assert isinstance(
        await shop.refusal(Reserve([RequestedLine("a", 6), RequestedLine("b", 1), RequestedLine("a", 5)], 60)),
        InsufficientStock,
    )
    assert isinstance(await shop.refusal(Reserve(wanted(a=1, none=1), 60)), ProductsMissing)
    assert await shop.stock("b") == (10, 0, 1)
    made = await shop.held(Reserve([RequestedLine("a", 6), RequestedLine("b", 1), RequestedLine("a", 4)], 60))
    assert await shop.stock("a") == (10, 10, 2)
    part = await shop.held(Commit(made.id, [Part(2, 3), Part(0, 1), Part(2, 1)], Rest.RELEASE, "order"))
    assert (part.status, counters(part)) == (Status.COMMITTED, [(0, 1, 5, 0), (0, 0, 1, 0), (0, 4, 0, 0)])
    assert await shop.stock("a") == (5, 0, 3)
    assert (await shop.ledger("a"))[-3:] == [(Reason.SALE, -1, -1), (Reason.RELEASE, 0, -5), (Reason.SALE, -4, -4)]


async def test_release(shop: Shop) -> None:
    """Part by part, and once; what is released can be released again and is not changed by that."""
    made = await shop.held(Reserve(wanted(a=3, b=2), 60))
    part = await shop.held(Release(made.id, [Part(0, 2)]))
    assert (part.status, counters(part)) == (Status.HELD, [(1, 0, 2, 0), (2, 0, 0, 0)])
    assert await shop.stock("a") == (10, 1, 3)
    gone = await shop.held(Release(made.id))
    assert (gone.status, gone.version) == (Status.RELEASED, 3)
    assert await shop.held(Release(made.id)) == gone
    assert await shop.stock("a") == (10, 0, 4)
    for command in (Commit(made.id), Extend(made.id, 60)):
        assert isinstance(await shop.refusal(command), ReservationClosed)


async def test_extend_moves_only_later(shop: Shop) -> None:
    """An end that would be earlier changes nothing; the products are not touched at all."""
    made = await shop.held(Reserve(wanted(a=3), 600))
    assert await shop.held(Extend(made.id, 60)) == made
    later = await shop.held(Extend(made.id, 6_000))
    assert (later.version, later.status) == (2, Status.HELD)
    assert later.expires_at > made.expires_at
    assert await shop.stock("a") == (10, 3, 2)


async def test_refusals_of_named_reservations(shop: Shop) -> None:
    """Which is missing, at another version, committed, or holds less: each is said, and nothing is changed."""
    made = await shop.held(Reserve(wanted(a=3), 60))
    other = Precondition(versions=frozenset({"2"}))
    for command in (Extend("0" * 32, 60), Commit("0" * 32), Release("0" * 32)):
        assert isinstance(await shop.refusal(command), ReservationMissing)
    for command in (Extend(made.id, 60, other), Commit(made.id, condition=other), Release(made.id, None, other)):
        assert isinstance(await shop.refusal(command), ReservationChanged)
    for command in (Commit(made.id, [Part(0, 4)]), Release(made.id, [Part(0, 2), Part(1, 1), Part(0, 2)])):
        assert isinstance(await shop.refusal(command), NotHeld)
    assert await shop.source.reservations.get(made.id) == made
    await shop.held(Commit(made.id))
    for command in (Extend(made.id, 60), Commit(made.id), Release(made.id)):
        assert isinstance(await shop.refusal(command), ReservationClosed)


async def test_a_reserved_product_is_not_deleted(shop: Shop) -> None:
    """Its units are released first; a count to nothing does not help."""
    made = await shop.held(Reserve(wanted(a=3), 60))
    await shop.done(set_stock("a", 0))
    refusal = await shop.refusal(delete("a"))
    assert isinstance(refusal, ProductReserved)
    assert (refusal.reserved, refusal.version) == (3, 3)
    await shop.held(Release(made.id))
    await shop.done(delete("a"))


async def test_joined_commands_see_each_other(shop: Shop) -> None:
    """In one transaction each is decided on what the one before it left, reservations included."""
    made = await shop.held(Reserve(wanted(a=6), 60))
    commands: Sequence[Command] = [
        Reserve(wanted(a=4), 60),
        Reserve(wanted(a=1), 60),
        Release(made.id, [Part(0, 2)]),
        Reserve(wanted(a=2), 60),
        Commit(made.id),
        Commit(made.id),
        Adjust([Line("a", -1)], Reason.SALE),
    ]
    decisions = (await shop.transactions.commit([WriteRequest(command) for command in commands])).decisions
    refused = [type(d.refusal) if isinstance(d, Denied) else None for d in decisions]
    assert refused == [None, InsufficientStock, None, None, None, ReservationClosed, InsufficientStock]
    assert await shop.stock("a") == (6, 6, 6)
    assert (await shop.source.reservations.get(made.id)).version == 3


async def test_reservations_are_listed_by_reference_and_by_product(shop: Shop) -> None:
    """By reference, and by product those that hold units of it now; newest first, page by page."""
    first, second = [await shop.held(Reserve(wanted(a=1, b=1), 60, "cart")) for _ in range(2)]
    other = await shop.held(Reserve(wanted(b=1), 60, "other"))
    first = await shop.held(Commit(first.id))
    source = shop.source.reservations
    assert await source.by_reference("cart", status=None, limit=9, after=None) == [second, first]
    assert await source.by_reference("cart", status=Status.COMMITTED, limit=9, after=None) == [first]
    assert await source.by_product("b", status=None, limit=9, after=None) == [other, second]
    assert await source.by_product("b", status=None, limit=1, after=None) == [other]
    assert await source.by_reference("nobody", status=None, limit=9, after=None) == []


async def test_products_of_states(shop: Shop) -> None:
    """The products of a reservation that only its lines name are published with every change of it."""
    made = await shop.held(Reserve(wanted(a=1, b=1), 60))
    committed = await shop.transactions.commit([WriteRequest(Commit(made.id, [Part(0, 1)]))])
    assert {state.key for state in committed.states} == {"a", "b"}
    assert {state.key: state for state in committed.states} == await shop.source.load(["a", "b"])
    [(product, _), _] = await shop.source.page(limit=9, after=None, prefix="")
    assert isinstance(product, Product)
