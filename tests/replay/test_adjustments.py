"""Sales to requests: nothing here touches a file or a socket."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.importer.errors import BadInput
from app.importer.records import Refusal
from app.replay.adjustments import LINES_MAX, Adjustment, by_invoice
from app.replay.ids import keep, sanitize
from app.replay.sales import SaleLine, read_sales


def sales(*rows: tuple[str, str, int]) -> list[SaleLine]:
    return [SaleLine(line, *row) for line, row in enumerate(rows, start=2)]


def test_columns_of_the_known_data_sets_are_found() -> None:
    """Both editions and their snake case, without --map; a mapped column goes before them."""
    for header in ("InvoiceNo,StockCode,Quantity", "Invoice,StockCode,Quantity", "invoice,stock_code,quantity"):
        _, found = read_sales([header, "7,A 1,-3"], {}, sanitize)
        assert list(found) == [SaleLine(2, "7", "A_1", -3)]
    _, found = read_sales(["invoice,Bon,stock_code,quantity", "7,B,A 1, 3 "], {"invoice": "Bon"}, keep)
    assert list(found) == [SaleLine(2, "B", "A 1", 3)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("7,A,1.0", "quantity: '1.0' is not a whole number"),
        ("7,A,", "quantity: '' is not"),
        ("7,A,--1", "quantity: '--1' is not"),
        ("7,A,9007199254740992", "quantity: '9007199254740992' is not"),
        ("7,A," + "9" * 5000, "is not a whole number"),
        (" ,A,1", "the invoice is empty"),
        ("7,,1", "the product is empty"),
        ("7,A", "has 2 cells"),
        ('7,"A', "not readable as CSV"),
        ("7,\udcff,1", "not UTF-8"),
    ],
)
def test_row_that_is_no_sale(row: str, reason: str) -> None:
    """It is told with its line, not guessed at."""
    _, found = read_sales(["invoice,stock_code,quantity\n", row], {}, keep)
    (refusal,) = found
    assert isinstance(refusal, Refusal)
    assert refusal.line == 2
    assert reason in refusal.reason


def test_header_without_a_quantity() -> None:
    """The names that were looked for are told, and how to name another."""
    with pytest.raises(BadInput, match=r"product \(looked for a column 'stock_code', 'StockCode', .*--map product="):
        read_sales(["invoice,sku,quantity"], {}, keep)


def test_invoice_becomes_one_request() -> None:
    """Sold units leave the stock; a product may come twice; lines stay in their order."""
    (adjustment,) = by_invoice(sales(("536365", "a", 6), ("536365", "b", 2), ("536365", "a", 1)))
    assert json.loads(adjustment.body()) == {
        "lines": [{"product_id": "a", "delta": -6}, {"product_id": "b", "delta": -2}, {"product_id": "a", "delta": -1}],
        "reason": "sale",
        "reference": "536365",
    }
    assert (adjustment.taken_units, adjustment.returned_units) == (9, 0)
    assert adjustment.key("run", 3) == "run:3:536365:1"


@pytest.mark.parametrize(
    ("invoice", "quantities", "reason", "deltas"),
    [
        ("C1", [-1, -2], "return", [1, 2]),
        ("1", [-5], "return", [5]),
        ("C1", [-1, 2], "sale", [1, -2]),
        ("1", [3, -1], "sale", [-3, 1]),
        ("1", [0, 3, 0], "sale", [-3]),
        ("C1", [0, -3], "return", [3]),
    ],
)
def test_signs_and_reasons(invoice: str, quantities: list[int], reason: str, deltas: list[int]) -> None:
    """Only what brings back and nothing else is a return; a quantity of zero is no line."""
    (adjustment,) = by_invoice(sales(*((invoice, "a", quantity) for quantity in quantities)))
    body = json.loads(adjustment.body())
    assert body["reason"] == reason
    assert [line["delta"] for line in body["lines"]] == deltas


def test_invoice_of_zeros_is_no_request() -> None:
    """The service would refuse a request without lines."""
    assert [a.invoice for a in by_invoice(sales(("1", "a", 0), ("2", "a", 1), ("3", "b", 0)))] == ["2"]


def test_long_invoice_is_split_in_order() -> None:
    """As many lines in a request as the service takes; zeros do not count, and nothing depends on anything but the file."""
    rows = sales(*(("1", f"p{number}", number % 5) for number in range(1, 5 * LINES_MAX // 4 + 11)), ("2", "x", 1))
    parts = list(by_invoice(rows))
    assert [(a.invoice, a.part, len(a.lines)) for a in parts] == [("1", 1, LINES_MAX), ("1", 2, 8), ("2", 1, 1)]
    assert [line for part in parts for line in part.lines] == [row for row in rows if row.quantity]
    assert list(by_invoice(rows)) == parts
    assert len({part.key("r", 1) for part in parts}) == 3


def test_invoice_that_comes_again_is_another_request() -> None:
    """Its second stretch has a key of its own, or the service would take it for a repetition of the first."""
    parts = list(by_invoice(sales(("1", "a", 1), ("2", "a", 1), ("1", "b", 1))))
    assert [(a.invoice, a.part) for a in parts] == [("1", 1), ("2", 1), ("1", 2)]
    assert parts[2].name == "invoice 1, part 2"
    assert parts[2].key("r", 1) != parts[0].key("r", 1)


_ROWS = st.lists(st.tuples(st.text(min_size=1, max_size=3), st.sampled_from("abc"), st.integers(-3, 3)), max_size=40)


@given(_ROWS)
def test_no_unit_is_lost_and_no_key_is_used_twice(rows: list[tuple[str, str, int]]) -> None:
    """The sum over the requests is that over the file, for each product; keys are what a header can carry."""
    adjustments = list(by_invoice(sales(*rows)))
    net: Counter[str] = Counter()
    for adjustment in adjustments:
        for line in json.loads(adjustment.body())["lines"]:
            assert line["delta"]
            net[line["product_id"]] += line["delta"]
    for product_id in "abc":
        assert net[product_id] == -sum(quantity for _, code, quantity in rows if code == product_id)
    assert sum(a.taken_units - a.returned_units for a in adjustments) == sum(quantity for _, _, quantity in rows)
    keys = [adjustment.key("run-1", repetition) for adjustment in adjustments for repetition in (1, 2, 11)]
    assert len(set(keys)) == len(keys)
    assert all(key.isascii() and key.isprintable() and " " not in key for key in keys)


@given(st.text(min_size=1).filter(lambda text: text.isprintable()), st.integers(1, 10**6), st.integers(1, 10**9))
def test_keys_are_short_enough(invoice: str, part: int, repetition: int) -> None:
    """At most 255 characters, whatever an invoice is called; long ones are told apart all the same."""
    lines = sales((invoice, "a", 1))
    key = Adjustment(invoice, part, lines).key("r" * 64, repetition)
    assert len(key) <= 255
    other = Adjustment("é" * 100 + "1", 1, lines).key("r", 1)
    assert other != Adjustment("é" * 100 + "2", 1, lines).key("r", 1)
