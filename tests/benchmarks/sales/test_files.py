"""Files to sales, to a catalogue, and to requests."""

import gzip
import json
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.importer.errors import ImportStopped
from app.importer.rows import Row, read_rows
from app.products.product import is_product_id
from benchmarks.sales.__main__ import main
from benchmarks.sales.catalogue import Product
from benchmarks.sales.invoices import LINES_MAX, Invoice, by_invoice
from benchmarks.sales.sales import Sale, read_sales, sanitized

HEADER = "invoice,stock_code,description,quantity,invoice_date,unit_price"


def sales(*rows: tuple[str, str, int]) -> list[Sale]:
    return [Sale(line, number, code, code, quantity, "", Decimal(1)) for line, (number, code, quantity) in enumerate(rows, 2)]


def write(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "sales.csv.gz"
    path.write_bytes(gzip.compress("\n".join([header, *rows, ""]).encode(errors="surrogateescape")))
    return path


@pytest.mark.parametrize(
    "header", ["InvoiceNo,StockCode,Description,Quantity,x,UnitPrice", "Invoice,StockCode,Description,Quantity,x,Price"]
)
def test_columns_of_both_editions(tmp_path: Path, header: str) -> None:
    """Their names are known, and codes become legal ids."""
    (sale,) = read_sales(write(tmp_path, '7,A 1,"Mug, blue", -3 ,d,2.55', header=header))
    assert sale == Sale(2, "7", "A 1", "A_1", -3, "Mug, blue", Decimal("2.55"))
    with pytest.raises(ImportStopped, match="no column for code"):
        read_sales(write(tmp_path, header=header.replace("StockCode", "SKU")))


def test_row_that_is_no_sale_ends_the_reading(tmp_path: Path) -> None:
    """What leaves out rows cannot be checked to the unit; the first bad lines are named."""
    bad = [
        "7,A,X,1.0,d,1",
        "7,A,X,,d,1",
        "7,A,X,1,d,1e3",
        "7,A,X,1,d,NaN",
        " ,A,X,1,d,1",
        "7,,X,1,d,1",
        "7,A,X,1",
        "7,A,\udcff,1,d,1",
    ]
    for row in bad:
        with pytest.raises(ImportStopped, match=r"1 rows of .* are no sale:\n  line 3: "):
            read_sales(write(tmp_path, "7,A,X,1,d,1", row))
    with pytest.raises(ImportStopped, match="and 2 more"):
        read_sales(write(tmp_path, *bad[:6] * 2))
    out = tmp_path / "out.csv"
    assert main(["catalogue", str(write(tmp_path, *bad)), str(out)]) == 2
    assert not out.exists()
    file = write(tmp_path, "7,A,X,1,d,1")
    before = file.read_bytes()
    for unusable in (file, tmp_path):
        assert main(["catalogue", str(file), str(unusable)]) == 2
    assert file.read_bytes() == before


@given(st.text(min_size=1))
def test_every_code_becomes_a_legal_id(code: str) -> None:
    """By the rule that the service itself applies; a legal one stays as it is."""
    assert is_product_id(sanitized(code))
    assert sanitized(sanitized(code)) == sanitized(code)
    assert not is_product_id(code) or sanitized(code) == code


def catalogue(folder: Path, *rows: str, words: tuple[str, ...] = ()) -> list[str]:
    out = folder / "out.csv"
    assert main(["catalogue", str(write(folder, *rows)), str(out), *words]) == 0
    with out.open(encoding="utf-8", newline="") as file:
        _, found = read_rows(file, {})
        assert all(isinstance(row, Row) for row in found), "`larder import` reads every row"
    return out.read_text().splitlines()[1:]


def test_one_row_for_each_product(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last description that is not blank, else the code; codes that differ by case apart, those of one id together."""
    rows = catalogue(
        tmp_path,
        "1,85123a,OLD NAME,6,d,2.55",
        "1,85123A,HEART,6,d,1.00",
        "2,85123a,NEW NAME ,1,d,2.95",
        "2,85123a,  ,1,d,9.99",
        "C3,POST,,-1,d,18.0",
        "4,BANK CHARGES,FEE,3,d,1",
        "4,BANK_CHARGES,,4,d,3",
    )
    assert rows == [
        "85123A,HEART,100,100000",
        "85123a,NEW NAME ,295,100000",
        "BANK_CHARGES,FEE,200,100000",
        "POST,POST,1800,100000",
    ]
    said = capsys.readouterr()
    assert "BANK_CHARGES from 'BANK CHARGES', 'BANK_CHARGES'" in said.err
    assert "Wrote 4 products with 400,000 units" in said.out


def test_share_of_what_sells(tmp_path: Path) -> None:
    """Rounded down; what comes back is not taken off, so there will be refusals."""
    sold = ["1,A,X,3,d,1", "2,A,X,4,d,1", "C3,A,X,-2,d,1", "C4,B,Y,-9,d,1"]
    assert catalogue(tmp_path, *sold, words=("--stock-share", "0.5")) == ["A,X,100,3", "B,Y,100,0"]
    assert catalogue(tmp_path, *sold, words=("--stock", "12")) == ["A,X,100,12", "B,Y,100,12"]


@given(st.lists(st.integers(-300, 300), min_size=1))
def test_price_is_the_median_half_up(tenths: list[int]) -> None:
    """Halves of a cent go up, exactly, as decimals do; below zero there is no price."""
    product = Product("a", "A", [Decimal(value) / 1000 for value in tenths])
    exact = median(Fraction(value, 10) for value in tenths)
    assert product.price_cents() == max(0, int(exact + Fraction(1, 2)))


def test_invoice_becomes_one_request() -> None:
    """Sold units leave the stock; a product may come twice; lines stay in their order, and those of quantity 0 are left out."""
    rows = [("536365", "a", 6), ("536365", "b", 2), ("536365", "c", 0), ("536365", "a", 1), ("9", "a", 0)]
    (invoice,) = by_invoice(sales(*rows))
    assert json.loads(invoice.body()) == {
        "lines": [{"product_id": "a", "delta": -6}, {"product_id": "b", "delta": -2}, {"product_id": "a", "delta": -1}],
        "reason": "sale",
        "reference": "536365",
    }
    assert invoice.key("run", 3) == "run:3:536365:1"


@pytest.mark.parametrize(
    ("quantities", "reason", "deltas"),
    [([-1, -2], "return", [1, 2]), ([-1, 2], "sale", [1, -2]), ([0, 3, 0], "sale", [-3]), ([0, -3], "return", [3])],
)
def test_signs_and_reasons(quantities: list[int], reason: str, deltas: list[int]) -> None:
    """Only what brings back and nothing else is a return."""
    (invoice,) = by_invoice(sales(*(("C1", "a", quantity) for quantity in quantities)))
    body = json.loads(invoice.body())
    assert (body["reason"], [line["delta"] for line in body["lines"]]) == (reason, deltas)


def test_long_invoice_is_split_and_one_that_comes_again_is_another_request() -> None:
    """The service would take a second stretch under the same key for a repetition of the first."""
    long = [("1", f"p{number}", number % 5) for number in range(1, 5 * LINES_MAX // 4 + 11)]
    rows = sales(*long, ("2", "x", 1), ("1", "y", 1))
    parts = list(by_invoice(rows))
    assert [(part.number, part.part, len(part.lines)) for part in parts] == [
        ("1", 1, LINES_MAX),
        ("1", 2, 8),
        ("2", 1, 1),
        ("1", 3, 1),
    ]
    assert [line for part in parts for line in part.lines] == [row for row in rows if row.quantity]
    assert len({part.key("r", 1) for part in parts}) == 4


_ROWS = st.lists(st.tuples(st.text(min_size=1, max_size=3), st.sampled_from("abc"), st.integers(-3, 3)), max_size=40)


@given(_ROWS)
def test_no_unit_is_lost_and_no_key_is_used_twice(rows: list[tuple[str, str, int]]) -> None:
    """The sum over the requests is that over the file, for each product; keys are what a header can carry."""
    invoices = list(by_invoice(sales(*rows)))
    net: Counter[str] = Counter()
    for invoice in invoices:
        for line in json.loads(invoice.body())["lines"]:
            assert line["delta"]
            net[line["product_id"]] += line["delta"]
    for code in "abc":
        assert net[code] == -sum(quantity for _, sold, quantity in rows if sold == code)
    assert sum(i.taken_units - i.returned_units for i in invoices) == sum(quantity for _, _, quantity in rows)
    keys = [invoice.key("run-1", repetition) for invoice in invoices for repetition in (1, 2, 11)]
    assert len(set(keys)) == len(keys)
    assert all(key.isascii() and key.isprintable() and " " not in key for key in keys)


@given(st.text(min_size=1).filter(lambda text: text.isprintable()), st.integers(1, 10**6), st.integers(1, 10**9))
def test_keys_are_short_enough(number: str, part: int, repetition: int) -> None:
    """At most 255 characters, whatever an invoice is called; long ones are told apart all the same."""
    lines = sales((number, "a", 1))
    assert len(Invoice(number, part, lines).key("r" * 64, repetition)) <= 255
    assert Invoice("é" * 100 + "1", 1, lines).key("r", 1) != Invoice("é" * 100 + "2", 1, lines).key("r", 1)
