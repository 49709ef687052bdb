"""What commands decide, on rows alone."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from app.products.commands import Adjust, Change, Command, Create, Put, Upsert, delete, merge_patch, set_stock
from app.products.errors import (
    AlreadyExists,
    InsufficientStock,
    PreconditionFailed,
    PreconditionRequired,
    ProductsMissing,
    Refused,
    StockLimit,
)
from app.products.product import MAX_INTEGER, Draft, Gone, Line, Patch, Precondition, Product, Reason, Row

NOW = datetime(2026, 1, 31, 9, 5, tzinfo=UTC)
MUG = Product("mug", "Mug", 100, 7, 2, 5, NOW, NOW)
NEVER, DELETED = Gone("mug", 0), Gone("mug", 9)
SAME = Draft("mug", "Mug", 100, None, 2)
MATCHING, OUTDATED = Precondition(versions=frozenset({"5"})), Precondition(versions=frozenset({"4"}))


def decide(command: Command, row: Row) -> tuple[Row, Change]:
    """The only effect on the only row."""
    [effect] = command.decide({"mug": row})
    return effect.row, effect.change


@pytest.mark.parametrize(
    ("command", "before", "version", "change"),
    [
        (Create(SAME), NEVER, 1, Change.CREATED),
        (Create(SAME), DELETED, 10, Change.CREATED),
        (Put(SAME), NEVER, 1, Change.CREATED),
        (Put(SAME), DELETED, 10, Change.CREATED),
        (Put(SAME), MUG, 5, Change.UNCHANGED),
        (Put(replace(SAME, price_cents=1)), MUG, 6, Change.UPDATED),
        (Put(replace(SAME, stock=7), MATCHING), MUG, 6, Change.UPDATED),
        (Upsert([replace(SAME, stock=7)]), MUG, 6, Change.UPDATED),
        (Upsert([SAME]), MUG, 5, Change.UNCHANGED),
        (Upsert([SAME]), DELETED, 10, Change.CREATED),
        (merge_patch("mug", Patch(price_cents=100)), MUG, 5, Change.UNCHANGED),
        (merge_patch("mug", Patch(name="Cup")), MUG, 6, Change.UPDATED),
        (set_stock("mug", 7), MUG, 6, Change.UPDATED),
        (delete("mug"), MUG, 6, Change.DELETED),
        (delete("mug", MATCHING), MUG, 6, Change.DELETED),
    ],
)
def test_decision(command: Command, before: Row, version: int, change: Change) -> None:
    """A change raises the version by one, also over a tombstone; a physical count is a change even of the same number."""
    row, done = decide(command, before)
    assert (row.version, done) == (version, change)


@pytest.mark.parametrize(
    ("command", "before", "refusal"),
    [
        (Create(SAME), MUG, AlreadyExists),
        (Put(replace(SAME, stock=7)), MUG, PreconditionRequired),
        (Put(SAME, OUTDATED), MUG, PreconditionFailed),
        (Put(SAME, Precondition(create_only=True)), MUG, PreconditionFailed),
        (Put(SAME, Precondition(any_version=True)), NEVER, PreconditionFailed),
        (Put(SAME, Precondition(any_version=True)), DELETED, PreconditionFailed),
        (merge_patch("mug", Patch(name="Cup")), NEVER, ProductsMissing),
        (merge_patch("mug", Patch(name="Cup"), OUTDATED), MUG, PreconditionFailed),
        (set_stock("mug", 1), DELETED, ProductsMissing),
        (set_stock("mug", 1, OUTDATED), MUG, PreconditionFailed),
        (delete("mug"), NEVER, ProductsMissing),
        (delete("mug"), DELETED, ProductsMissing),
        # A product that is not there is missing, whatever version the caller names.
        (set_stock("mug", 1, MATCHING), NEVER, ProductsMissing),
        (delete("mug", MATCHING), NEVER, ProductsMissing),
        (delete("mug", OUTDATED), MUG, PreconditionFailed),
    ],
)
def test_refusal(command: Command, before: Row, refusal: type[Refused]) -> None:
    """What may not go on is refused by its reason."""
    with pytest.raises(refusal):
        decide(command, before)


def test_stock_that_is_left_out() -> None:
    """A whole product without a stock keeps what is there, and begins with none."""
    kept, _ = decide(Put(replace(SAME, price_cents=1)), MUG)
    born, _ = decide(Put(SAME), NEVER)
    assert isinstance(kept, Product)
    assert isinstance(born, Product)
    assert (kept.stock, born.stock) == (7, 0)


def test_next_life_keeps_nothing_of_the_last() -> None:
    """Created over a tombstone, a product has its own values and only the version goes on."""
    row, _ = decide(Create(Draft("mug", "Other", 3)), DELETED)
    assert isinstance(row, Product)
    assert (row.name, row.price_cents, row.stock, row.reorder_point) == ("Other", 3, 0, 0)


def test_lines_of_one_product_are_checked_as_their_sum() -> None:
    """Shortages come in the order in which the products were first named, each with its sum; the limit is exact."""
    rows = {"a": replace(MUG, id="a", stock=10), "b": replace(MUG, id="b", stock=10)}

    def adjust(*lines: tuple[str, int]) -> list[tuple[str, int, list[int]]]:
        effects = Adjust([Line(product_id, delta) for product_id, delta in lines], Reason.SALE).decide(rows)
        return [(e.row.id, e.row.stock, [entry.line for entry in e.entries]) for e in effects if isinstance(e.row, Product)]

    assert adjust(("a", -12), ("b", -1), ("a", 3)) == [("a", 1, [0, 2]), ("b", 9, [1])]
    assert adjust(("a", MAX_INTEGER), ("a", MAX_INTEGER), ("a", -MAX_INTEGER), ("a", -10)) == [("a", MAX_INTEGER, [0, 1, 2, 3])]
    with pytest.raises(StockLimit):
        adjust(("a", MAX_INTEGER - 9))
    with pytest.raises(InsufficientStock) as refusal:
        adjust(("b", -2), ("a", -12), ("b", -9), ("a", 1))
    assert [(s.product_id, s.available, s.requested, s.version) for s in refusal.value.shortages] == [
        ("b", 10, 11, 5),
        ("a", 10, 11, 5),
    ]
