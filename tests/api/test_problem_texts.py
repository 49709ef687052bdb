"""The sentences of problems about one product and about several, and the reasons that they carry."""

import pytest

from app.api.models import ProblemDocument
from app.api.problems import EXCEPTIONS, Problem, no_product
from app.postgres.errors import DatabaseNewer
from app.products.errors import Excess, InsufficientStock, NotHeld, Shortage


def _short(available: int, others: int, held: int = 0) -> Problem:
    shortages = [Shortage(f"p{number}", available, 3, 1, available + held, held) for number in range(1 + others)]
    return EXCEPTIONS[InsufficientStock](InsufficientStock(shortages))


def _not_held(*lines: int) -> Problem:
    return EXCEPTIONS[NotHeld](NotHeld("r", [Excess(line, 2, 9) for line in lines]))


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        (no_product(["a"]), "There is no product a: it was never created, or it has been deleted."),
        (no_product(["a", "b"]), "There are no products a, b: they were never created, or they have been deleted."),
        (no_product("abcdef"), "There are no products a, b, c, d, e, …: they were never created, or they have been deleted."),
        (_short(1, 0), "The request takes 3 of product p0, of which 1 is available. Nothing was changed. Take less, or add "),
        (
            _short(0, 1),
            "3 of product p0, of which 0 are available; 1 other product lacks stock, too. Nothing was changed. Add ",
        ),
        (_short(2, 2), "3 of product p0, of which 2 are available; 2 other products lack stock, too. "),
        (_short(0, 0, held=5), "of which 0 are available (5 in stock, 5 held). Nothing was changed. Wait until holds end, or "),
        (_short(4, 0, held=5), "of which 4 are available (9 in stock, 5 held). Nothing was changed. Take less, or add stock "),
        (_not_held(0), "Line 0 of reservation r has 2 open units, and the request names 9. Nothing was changed. "),
        (_not_held(0, 7), " and the request names 9; `lines` has the others. Nothing was changed. "),
        (EXCEPTIONS[DatabaseNewer](DatabaseNewer("the database is newer.")), " Reason: the database is newer. Repeat "),
    ],
)
def test_sentences(problem: Problem, sentence: str) -> None:
    """Noun and verb have the number of the products; the reason that an error carries is one sentence with one full stop."""
    assert sentence in problem.detail


def test_members_are_documented() -> None:
    """The OpenAPI model has the members of ``already-exists`` and ``body-too-large``."""
    assert {"product_id", "limit_bytes"} <= ProblemDocument.model_fields.keys()
