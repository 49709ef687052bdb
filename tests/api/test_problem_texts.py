"""The sentences of problems about one product and about several, and the reasons that they carry."""

import pytest

from app.api.models import ProblemDocument
from app.api.problems import EXCEPTIONS, no_product
from app.postgres.errors import DatabaseNewer
from app.products.errors import InsufficientStock, Shortage


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        (["a"], "There is no product a: it was never created, or it has been deleted."),
        (["a", "b"], "There are no products a, b: they were never created, or they have been deleted."),
        (list("abcdef"), "There are no products a, b, c, d, e, …: they were never created, or they have been deleted."),
    ],
)
def test_missing_products(missing: list[str], sentence: str) -> None:
    """Noun and verb have the number of the missing products."""
    assert no_product(missing).detail.startswith(sentence)


@pytest.mark.parametrize(
    ("available", "others", "sentence"),
    [
        (1, 0, "The request takes 3 of product p0, whose stock is 1. "),
        (0, 1, "The request takes 3 of product p0, whose stock is 0; 1 other product lacks stock, too. "),
        (2, 2, "The request takes 3 of product p0, whose stock is 2; 2 other products lack stock, too. "),
    ],
)
def test_shortages(available: int, others: int, sentence: str) -> None:
    """The sentence fits any stock and any number of further products."""
    shortages = [Shortage(f"p{number}", available, 3, 1) for number in range(1 + others)]
    problem = EXCEPTIONS[InsufficientStock](InsufficientStock(shortages))
    assert problem.detail.startswith(sentence)


def test_newer_database_is_the_reason() -> None:
    """A client learns why the database must not be used, in one sentence with one full stop."""
    problem = EXCEPTIONS[DatabaseNewer](DatabaseNewer("the database is newer."))
    assert " Reason: the database is newer. Repeat " in problem.detail


def test_members_are_documented() -> None:
    """The OpenAPI model has the members of ``already-exists`` and ``body-too-large``."""
    assert {"product_id", "limit_bytes"} <= ProblemDocument.model_fields.keys()
