"""The catalogue of a file of sales."""

import gzip
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cli import main
from app.importer.errors import BadOutput
from app.importer.rows import Row, read_rows
from app.replay.catalogue import Catalogue, Opening, Sold, write_catalogue

HEADER = "invoice,stock_code,description,quantity,invoice_date,unit_price,customer_id,country"


def sales_file(folder: Path, *rows: str) -> Path:
    path = folder / "sales.csv.gz"
    path.write_bytes(gzip.compress("\n".join([HEADER, *(f"{row},," for row in rows), ""]).encode()))
    return path


def made(folder: Path, *rows: str, words: tuple[str, ...] = ()) -> list[str]:
    out = folder / "out.csv"
    assert main(["catalogue", str(sales_file(folder, *rows)), str(out), *words]) == 0
    with out.open(encoding="utf-8", newline="") as file:
        columns, found = read_rows(file, {})
        assert columns.names == ("id", "name", "price_cents", "stock")
        assert all(isinstance(row, Row) for row in found), "`larder import` reads every row"
    return out.read_text().splitlines()[1:]


def test_one_row_for_each_product(tmp_path: Path) -> None:
    """Last description that is not blank, else the code; median price; codes that differ by case apart; in bytewise order."""
    rows = made(
        tmp_path,
        "1,85123a,OLD NAME,6,d,2.55",
        "1,85123A,HEART,6,d,1.00",
        "2,85123a,NEW NAME ,1,d,2.95",
        "2,85123a,  ,1,d,9.99",
        "C3,POST,,-1,d,18.0",
    )
    assert rows == ["85123A,HEART,100,100000", "85123a,NEW NAME ,295,100000", "POST,POST,1800,100000"]


@pytest.mark.parametrize(
    ("prices", "cents"),
    [
        (["2.55"], 255),
        (["0.01", "0.02"], 2),
        (["1.00", "1.01"], 101),
        (["1", "2", "3", "100"], 250),
        (["0.125"], 13),
        (["0.124999"], 12),
        (["0.0"], 0),
        (["-11062.06", "-11062.06", "11062.06"], 0),
    ],
)
def test_median_price_in_cents_half_up(tmp_path: Path, prices: list[str], cents: int) -> None:
    """Of two in the middle the mean; halves of a cent go up, exactly, as decimals do; below zero there is no price."""
    (row,) = made(tmp_path, *(f"1,A,X,1,d,{price}" for price in prices))
    assert row == f"A,X,{cents},100000"


@given(st.lists(st.integers(0, 300), min_size=1))
def test_median_is_the_median(cents: list[int]) -> None:
    """However often each price comes."""
    product = Sold("a", "A")
    product.prices.update(Decimal(value) / 100 for value in cents)
    assert product.price_cents() == int(median(map(Fraction, cents)) + Fraction(1, 2))


def test_illegal_characters_and_collisions_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Codes that become one id are one product, and its rows are added up."""
    words = ("--stock-share", "1")
    rows = made(tmp_path, "1,BANK CHARGES,FEE,3,d,1", "1,BANK_CHARGES,,4,d,3", "1,x,X,1,d,1", words=words)
    assert rows == ["BANK_CHARGES,FEE,200,7", "x,X,100,1"]
    said = capsys.readouterr()
    assert "BANK_CHARGES from 'BANK CHARGES', 'BANK_CHARGES'" in said.err
    assert "Wrote 2 products with 8 units" in said.out


def test_share_of_what_sells(tmp_path: Path) -> None:
    """Rounded down; what comes back is not taken off, so there will be refusals."""
    sold = ["1,A,X,3,d,1", "2,A,X,4,d,1", "C3,A,X,-2,d,1", "C4,B,Y,-9,d,1"]
    assert made(tmp_path, *sold, words=("--stock-share", "0.5")) == ["A,X,100,3", "B,Y,100,0"]
    assert made(tmp_path, *sold, words=("--stock", "12")) == ["A,X,100,12", "B,Y,100,12"]
    assert Opening(share=Fraction(Decimal("0.1"))).stock(10) == 1


@pytest.mark.parametrize("row", ["1,A,X,1.5,d,1", "1,A,X,1,d,1e3", "1,A,X,1,d,", "1,,X,1,d,1", "1,A,X,1,d,NaN", "1,A,X"])
def test_row_that_is_no_sale_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], row: str) -> None:
    """Half a catalogue would be missed only by the sales that fail; an earlier one stays."""
    file, out = sales_file(tmp_path, "1,A,X,1,d,1", row), tmp_path / "out.csv"
    out.write_text("earlier")
    assert main(["catalogue", str(file), str(out)]) == 1
    assert "Line 3 is no sale" in capsys.readouterr().err
    assert out.read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "sales.csv.gz"]


def test_places_that_cannot_be_written_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sales themselves, a folder, and what is not there."""
    file = sales_file(tmp_path, "1,A,X,1,d,1")
    before = file.read_bytes()
    assert main(["catalogue", str(file), str(file)]) == 1
    assert main(["catalogue", str(file), str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("Name another one") == 2
    assert file.read_bytes() == before
    with pytest.raises(BadOutput, match="Name another file"):
        write_catalogue(Catalogue([], []), Opening(1), tmp_path / "absent" / "out.csv")
    assert main(["catalogue", str(tmp_path / "absent"), str(tmp_path / "out.csv")]) == 1
    assert "Cannot open" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--stock-share", "-1"],
        ["--stock-share", "NaN"],
        ["--stock-share", "half"],
        ["--stock", "-1"],
        ["--map", "colour=x"],
        ["--stock", "1", "--stock-share", "1"],
    ],
)
def test_bad_arguments(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2 with the usage, before anything is opened."""
    with pytest.raises(SystemExit) as caught:
        main(["catalogue", "in", "out", *words])
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err
