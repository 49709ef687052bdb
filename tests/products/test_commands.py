"""What commands decide, on rows alone."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from app.products.commands import Change, Command, Create, Put, Upsert, delete, merge_patch, set_stock
from app.products.errors import AlreadyExists, PreconditionFailed, PreconditionRequired, ProductsMissing, Refused
from app.products.product import Draft, Gone, Patch, Precondition, Product, Row

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


@pytest.mark.parametrize("make", [lambda c: set_stock("mug", 1, c), lambda c: delete("mug", c)])
def test_missing_product_with_a_precondition(make: Callable[[Precondition], Command]) -> None:
    """A product that is not there is missing, whatever version the caller names."""
    with pytest.raises(ProductsMissing):
        decide(make(MATCHING), NEVER)
