"""The contract of transactions and lists: what a request does by itself and in a batch, on the fake and on PostgreSQL."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest

from app.cache.ports import Absent, Value
from app.products.commands import Adjust, Change, Command, Create, Effect, Put, Upsert, delete, merge_patch, set_stock
from app.products.decision import Decision, Denied, Done, Postponed, Repeated
from app.products.errors import AlreadyExists, InsufficientStock, KeyReused, ProductsMissing, Refused
from app.products.idempotency import NO_ORIGIN, Answer, IdempotencyKey, Origin, WriteRequest
from app.products.product import Draft, LedgerPosition, Line, Movement, Patch, Position, Product, Reason
from app.products.reservation import Reservation
from app.products.source import ProductSource
from app.products.transaction import Committed
from app.products.transactions import ProductTransactions
from tests.fakes.products import MemoryProducts, MemoryTransactions
from tests.limits import open_database


@dataclass(frozen=True, slots=True)
class Shop:
    """Empty tables, and what writes and reads them."""

    transactions: ProductTransactions
    source: ProductSource

    async def commit(self, *commands: Command) -> Committed:
        """Commit commands in one transaction, none of them with an idempotency key."""
        return await self.transactions.commit([WriteRequest(command) for command in commands])

    async def decide(self, command: Command, origin: Origin = NO_ORIGIN) -> Decision:
        """Carry out one request by itself."""
        return (await self.transactions.commit([WriteRequest(command, origin)])).decisions[0]


@pytest.fixture
async def shop(postgres_at: tuple[str, str] | None) -> AsyncIterator[Shop]:
    if postgres_at is None:
        products = MemoryProducts()
        yield Shop(MemoryTransactions(products), products)
        return
    database = open_database(postgres_at[0])
    yield Shop(ProductTransactions(database), ProductSource(database))
    await database.close()


def draft(product_id: str, stock: int | None = None, *, name: str = "Name", reorder_point: int = 0) -> Draft:
    return Draft(product_id, name, 100, stock, reorder_point)


def effects(decision: Decision) -> Sequence[Effect]:
    assert isinstance(decision, Done)
    return decision.effects


def outcome(decision: Decision) -> int | type[Refused]:
    """The version that came of a request, or why it was refused."""
    return type(decision.refusal) if isinstance(decision, Denied) else effects(decision)[0].row.version


def once(key: str, content: bytes = b"") -> Origin:
    """A key whose stored answer says what was done; running out of stock is stored, no other refusal is."""

    def render(result: Sequence[Effect] | Reservation | Refused) -> Answer | None:
        if isinstance(result, Refused):
            return Answer(2, b"none left") if isinstance(result, InsufficientStock) else None
        if isinstance(result, Reservation):
            return Answer(1, f"{result.version}".encode())
        return Answer(1, b" ".join(f"{effect.row.id}@{effect.row.version}".encode() for effect in result), '"tag"', "place")

    return Origin(idempotency_key=IdempotencyKey("", key, content, render))


async def test_states_are_what_a_read_finds(shop: Shop) -> None:
    """What a transaction gives to publish is, byte for byte, what the source loads afterwards."""
    await shop.commit(Upsert([draft(key) for key in "abc"]))
    committed = await shop.commit(set_stock("a", 5), delete("b"), Put(draft("c")), Create(draft("d")), Create(draft("d")))
    loaded = await shop.source.load(list("abcd"))
    assert {state.key: state for state in committed.states} == loaded
    assert isinstance(loaded["a"], Value)
    assert isinstance(loaded["b"], Absent)
    assert loaded["c"].version == 1  # unchanged, and given to publish all the same (R10)


async def test_what_is_refused_is_not_published(shop: Shop) -> None:
    """A transaction without any change has no states, and leaves none."""
    assert not (await shop.commit(set_stock("a", 1), Adjust([Line("b", 1)], Reason.RECEIPT))).states
    assert (await shop.source.load(["a"]))["a"].version == 0


async def test_commands_of_one_transaction_see_each_other(shop: Shop) -> None:
    """Each is decided on what the one before it left, and a refusal among them leaves the others alone."""
    first, again = Create(draft("a")), Create(draft("a", 9))
    committed = await shop.commit(first, first, set_stock("a", 3), delete("a"), set_stock("a", 4), again)
    assert [outcome(decision) for decision in committed.decisions] == [1, AlreadyExists, 2, 3, ProductsMissing, 4]
    [state] = committed.states
    assert isinstance(state, Value)
    assert state.version >= 4


async def test_created_and_deleted_in_one_transaction(shop: Shop) -> None:
    """It leaves a tombstone, so that the id's next life goes on from its version."""
    [state] = (await shop.commit(Create(draft("a")), delete("a"))).states
    assert isinstance(state, Absent)
    assert outcome(await shop.decide(Create(draft("a")))) == state.version + 1


async def test_times_are_those_of_the_transaction(shop: Shop) -> None:
    """A creation whose row is gone again has its times, too; a later change keeps the time of creation."""
    created, _ = (await shop.commit(Create(draft("a", 3)), delete("a"))).decisions
    [effect] = effects(created)
    assert isinstance(effect.row, Product)
    assert effect.row.created_at == effect.row.updated_at == effect.recorded_at
    [again] = effects(await shop.decide(Create(draft("a"))))
    [changed] = effects(await shop.decide(set_stock("a", 4)))
    [same] = effects(await shop.decide(Put(draft("a"))))
    assert isinstance(again.row, Product)
    assert isinstance(changed.row, Product)
    assert effect.row.created_at < again.row.created_at == changed.row.created_at < changed.row.updated_at
    assert (same.change, same.row, same.recorded_at) == (Change.UNCHANGED, changed.row, None)


async def test_nothing_changes_behind_a_change(shop: Shop) -> None:
    """A request that finds nothing to change shows the row that it found, with its times, also if its own batch made it."""
    made, same, counted, still = (
        await shop.commit(Create(draft("a")), Put(draft("a")), set_stock("a", 4), merge_patch("a", Patch("Name")))
    ).decisions
    await shop.commit(set_stock("a", 5))
    assert [effects(decision)[0].change for decision in (same, still)] == [Change.UNCHANGED] * 2
    assert effects(same)[0].row == effects(made)[0].row
    assert effects(still)[0].row == effects(counted)[0].row
    before = effects(await shop.decide(Put(draft("a"))))[0].row
    unchanged, _ = (await shop.commit(Put(draft("a")), set_stock("a", 6))).decisions
    assert effects(unchanged)[0].row == before


async def test_request_with_a_key_is_done_once(shop: Shop) -> None:
    """Its retry finds the answer as it was stored, and what to publish before it is given again."""
    await shop.commit(Create(draft("a", 10)))
    sale = Adjust([Line("a", -1)], Reason.SALE)
    assert outcome(await shop.decide(sale, once("k"))) == 2
    committed = await shop.transactions.commit([WriteRequest(sale, once("k")), WriteRequest(set_stock("a", 7))])
    assert committed.decisions[0] == Repeated(Answer(1, b"a@2", '"tag"', "place"), ["a"])
    assert [(state.key, state.version) for state in committed.states] == [("a", 3)]
    assert isinstance(await shop.decide(sale, once("other")), Done)


async def test_key_belongs_to_its_first_request(shop: Shop) -> None:
    """Another request under the same key is refused, and the first answer stays."""
    await shop.decide(Create(draft("a")), once("k", b"one"))
    assert outcome(await shop.decide(Create(draft("b")), once("k", b"two"))) is KeyReused
    assert isinstance(await shop.decide(Create(draft("a")), once("k", b"one")), Repeated)


async def test_refusal_is_stored_if_it_has_an_answer(shop: Shop) -> None:
    """Stock that came later does not turn the retry of a refused sale into a sale; what has no answer is decided anew."""
    await shop.commit(Create(draft("a", 1)))
    sale = Adjust([Line("a", -2)], Reason.SALE)
    assert outcome(await shop.decide(sale, once("k"))) is InsufficientStock
    assert outcome(await shop.decide(set_stock("b", 9), once("l"))) is ProductsMissing
    await shop.commit(set_stock("a", 9), Create(draft("b")))
    assert await shop.decide(sale, once("k")) == Repeated(Answer(2, b"none left"), ["a"])
    assert outcome(await shop.decide(set_stock("b", 9), once("l"))) == 2


async def test_same_key_twice_in_one_transaction(shop: Shop) -> None:
    """The second waits for the first one's answer, whether there will be one or not."""
    twice = [WriteRequest(Create(draft("a")), once("k"))] * 2
    assert [type(decision) for decision in (await shop.transactions.commit(twice)).decisions] == [Done, Postponed]
    refused = [WriteRequest(set_stock("b", 1), once("l"))] * 2
    assert [type(decision) for decision in (await shop.transactions.commit(refused)).decisions] == [Denied, Postponed]


async def test_key_without_any_product(shop: Shop) -> None:
    """It has an answer, too."""
    assert not effects(await shop.decide(Upsert([]), once("k")))
    assert await shop.decide(Upsert([]), once("k")) == Repeated(Answer(1, b"", '"tag"', "place"), [])


async def test_list_by_id_and_by_name(shop: Shop) -> None:
    """By id bytewise, or by name whatever its case, each product once; what is deleted is not listed."""
    names = {"B": "mug", "a": "MUG", "_": "Mug 2", "C": "mUG 10", "z": "m", "gone": "mug"}
    await shop.commit(Upsert([draft(key, name=name, stock=1, reorder_point=2) for key, name in names.items()]))
    await shop.commit(delete("gone"))
    assert await _walk(shop) == ["B", "C", "_", "a", "z"]
    assert await _walk(shop, prefix="M") == ["z", "B", "a", "C", "_"]
    assert await _walk(shop, prefix="mug 1") == ["C"]
    await shop.commit(Adjust([Line("C", 1)], Reason.RECEIPT))
    assert await _walk(shop, below=True) == ["B", "_", "a", "z"]
    assert await _walk(shop, prefix="mug", below=True) == ["B", "_", "a"]


async def _walk(shop: Shop, *, prefix: str = "", below: bool = False) -> list[str]:
    found: list[str] = []
    after: Position | None = None
    while page := await shop.source.page(limit=1, after=after, prefix=prefix, below_reorder_point=below):
        [(product, after)] = page
        found.append(product.id)
    return found


async def test_ledger_newest_first(shop: Shop) -> None:
    """By product and by reference, page by page; the ledger of a deleted product stays."""
    await shop.commit(Create(draft("a", 5)), Create(draft("b", 5)))
    await shop.commit(Adjust([Line("a", 1), Line("b", 2), Line("a", 3)], Reason.RECEIPT, "r"))
    await shop.commit(delete("a"))
    assert not await shop.source.has_ledger("c")
    assert await shop.source.has_ledger("a")
    of_a = await shop.source.movements("a", limit=9, after=None)
    assert [(m.version, m.line, m.delta, m.stock_after, m.reason) for m in of_a] == [
        (3, 0, -9, 0, Reason.DELETION),
        (2, 2, 3, 9, Reason.RECEIPT),
        (2, 0, 1, 9, Reason.RECEIPT),
        (1, 0, 5, 5, Reason.OPENING),
    ]
    assert await shop.source.movements("a", limit=2, after=_place(of_a[0])) == of_a[1:3]
    by_reference = await shop.source.movements_by_reference("r", limit=9, after=None)
    assert [(m.product_id, m.line) for m in by_reference] == [("b", 1), ("a", 2), ("a", 0)]
    assert await shop.source.movements_by_reference("r", limit=9, after=_place(by_reference[1])) == by_reference[2:]


def _place(movement: Movement) -> LedgerPosition:
    return LedgerPosition(movement.product_id, movement.version, movement.line, movement.created_at)
