"""CSV text to rows: nothing here touches a file or a socket."""

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.importer.errors import ImportStopped
from app.importer.rows import NUMBER_MAX, Columns, Rejected, Row, cents_of, read_rows, whole_number


def lines_of(text: str) -> list[str]:
    """Split at LF only, as the source does."""
    return [line + "\n" for line in text.removesuffix("\n").split("\n")]


def rows_of(text: str, **mapping: str) -> list[Row | Rejected]:
    return list(read_rows(lines_of(text), mapping)[1])


def items_of(text: str, **mapping: str) -> list[dict[str, Any]]:
    rows = rows_of(text, **mapping)
    assert all(isinstance(row, Row) for row in rows), rows
    return [json.loads(row.body) for row in rows if isinstance(row, Row)]


def rejected_of(text: str) -> list[tuple[int, str, str]]:
    return [(row.line, row.id, row.reason) for row in rows_of(text) if isinstance(row, Rejected)]


def test_all_columns_become_an_item() -> None:
    """Numbers are numbers, text is text, as the batch operation wants them."""
    assert items_of("id,name,price_cents,stock,reorder_point\na,Mug,1299,40,10\n") == [
        {"id": "a", "name": "Mug", "price_cents": 1299, "stock": 40, "reorder_point": 10}
    ]


def test_empty_or_absent_optional_columns_are_left_out() -> None:
    """Left out means unchanged stock, and that is not the same as 0."""
    assert items_of("id,name,price_cents,stock\na,Mug,1,\nb,Cup,2,0\n") == [
        {"id": "a", "name": "Mug", "price_cents": 1},
        {"id": "b", "name": "Cup", "price_cents": 2, "stock": 0},
    ]
    assert items_of("id,name,price_cents\na,Mug,1\n") == [{"id": "a", "name": "Mug", "price_cents": 1}]


@pytest.mark.parametrize("header", ["ID,Name,PRICE_CENTS", " id , name , price_cents ", "name,id,price_cents"])
def test_header_case_spaces_and_order_do_not_matter(header: str) -> None:
    """Spreadsheets change these; the meaning is plain."""
    columns, _ = read_rows([header + "\n"], {})
    names = [name.strip().casefold() for name in header.split(",")]
    assert columns.positions == {name: names.index(name) for name in ("id", "name", "price_cents")}


def test_other_column_names_are_mapped() -> None:
    """A mapped field is read from its column only, though another has the field's own name."""
    text = "id,StockCode,Description,Price in cents,ignored\n7,85123A,HEART,255,x\n"
    mapping = {"id": "stockcode", "name": "Description", "price_cents": "Price in cents"}
    assert items_of(text, **mapping) == [{"id": "85123A", "name": "HEART", "price_cents": 255}]
    assert read_rows([text.splitlines()[0]], mapping)[0].text().endswith(" Not read: 'id', 'ignored'.")


def test_exact_name_wins_over_one_in_other_case() -> None:
    """Two columns that differ by case only are told apart if one is named exactly."""
    assert Columns.of(["ID", "id", "name", "price_cents"], {}).positions["id"] == 1


@pytest.mark.parametrize(
    ("header", "mapping", "words"),
    [
        ("id,name", {}, ["price_cents", "--map price_cents=", "'id', 'name'"]),
        ("id,name,price_cents", {"stock": "Menge"}, ["stock", "'Menge'"]),
        ("Id,ID,name,price_cents", {}, ["2 columns", "id"]),
        ("id,id,name,price_cents", {}, ["2 columns", "id"]),
        ("id;name;price_cents", {}, ["commas"]),
        ("id\tname\tprice_cents", {}, ["commas"]),
        ('id,"name', {}, ["header line cannot be read"]),
        ("id,name,pr\udce9,price_cents", {}, ["not UTF-8", "iconv"]),
    ],
)
def test_unusable_header_is_explained(header: str, mapping: dict[str, str], words: list[str]) -> None:
    """Without its columns the file cannot be imported; the message says which and what to do."""
    with pytest.raises(ImportStopped) as caught:
        read_rows([header + "\n", "1,2,3\n"], mapping)
    for word in words:
        assert word in str(caught.value)


def test_empty_file_is_an_error_and_a_lone_header_is_not() -> None:
    """A file without rows is imported without doing anything."""
    with pytest.raises(ImportStopped, match="empty"):
        read_rows([], {})
    assert rows_of("id,name,price_cents\n") == []


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ("a,Mug,12.99", "price_cents: '12.99' is not a whole number"),
        ("a,Mug,-1", "price_cents: '-1' is not"),
        ("a,Mug,1e3", "price_cents: '1e3' is not"),
        ('a,Mug,"1,299"', "price_cents: '1,299' is not"),
        ("a,Mug,€5", "price_cents: '€5' is not"),
        ("a,Mug,٣", "price_cents: '٣' is not"),
        ("a,Mug,9007199254740992", "is not a whole number from 0 to 9007199254740991"),
        ("a,Mug," + "9" * 5000, "…' is not a whole number"),
        ("a,Mug,", "price_cents is empty"),
        (",Mug,1", "id is empty"),
        ("a,,1", "name is empty"),
        ("a,Mug", "has 2 cells, the header has 3"),
        ("a,Mug, blue,1", "has 4 cells, the header has 3"),
        ("a", "has 1 cell, the header has 3"),
        ('a,"Mug"s,1', "not readable as CSV"),
        ("a,M\rug,1", "a CR outside quotes"),
        ("a,M\udce9g,1", "not UTF-8"),
    ],
)
def test_bad_row_is_rejected_with_its_line_and_the_next_is_read(cells: str, reason: str) -> None:
    """One bad row costs one row."""
    rows = rows_of(f"id,name,price_cents\nx,X,1\n{cells}\ny,Y,2\n")
    assert [row.line for row in rows] == [2, 3, 4]
    assert isinstance(rows[0], Row)
    assert isinstance(rows[2], Row)
    assert isinstance(rows[1], Rejected)
    assert reason in rows[1].reason
    assert rows[1].id == ("" if "CSV" in rows[1].reason else cells.split(",", maxsplit=1)[0])


def test_line_is_where_the_record_starts() -> None:
    """Line breaks inside quotes belong to the record, as do empty lines to none."""
    rows = rows_of('id,name,price_cents\r\n\r\na,"two\r\nlines",1\r\n\r\n,,\r\nb,B,x\r\n')
    assert [row.line for row in rows] == [3, 7]
    assert isinstance(rows[0], Row)
    assert json.loads(rows[0].body)["name"] == "two\r\nlines"


def test_unclosed_quote_names_every_line_it_swallowed() -> None:
    """Rows that were taken into a cell are not lost without a word."""
    (rejected,) = rejected_of('id,name,price_cents\na,"open,1\nb,B,2\nc,C,3\n')
    assert rejected[0] == 2
    assert "lines 2 to 4" in rejected[2]


def test_endless_cell_is_rejected_and_reading_goes_on() -> None:
    """A cell has a limit, so that a lost quote does not take the file into memory."""
    long_cell = "\n".join(["x" * 1000] * 200)
    rows = rows_of(f'id,name,price_cents\na,"{long_cell},1\nb,B,2\n')
    assert isinstance(rows[0], Rejected)
    assert "field limit" in rows[0].reason
    assert rows[0].line == 2
    assert isinstance(rows[-1], Row)
    assert rows[-1].id == "b"


@pytest.mark.parametrize(
    ("cell", "number"),
    [("0", 0), ("007", 7), (" 5 ", 5), (str(NUMBER_MAX), NUMBER_MAX), ("0" * 9000 + "1", 1), ("", None), ("1 000", None)],
)
def test_whole_numbers(cell: str, number: int | None) -> None:
    """Digits with spaces around them, no more."""
    assert whole_number(cell) == number


@pytest.mark.parametrize("column", ["Regular price", "Price", "VK", "percent", "PriceCents"])
def test_column_that_does_not_name_its_unit(column: str) -> None:
    """45 is 45 cents in one file and 4,500 in another: nobody guesses, and the message says what to add."""
    lines = [f"id,name,{column}\n", "a,Mug,45\n"]
    with pytest.raises(ImportStopped, match=r"--price-unit cents .* --price-unit major"):
        read_rows(lines, {"price_cents": column})
    for unit, cents in (("cents", 45), ("major", 4_500)):
        [row] = read_rows(lines, {"price_cents": column}, unit)[1]  # type: ignore[arg-type]  # both are units
        assert isinstance(row, Row)
        assert json.loads(row.body)["price_cents"] == cents


@pytest.mark.parametrize("column", ["price_cents", "PRICE_CENTS", "Cents", "Price (cent)"])
def test_column_that_names_its_unit(column: str) -> None:
    """A price of the other kind in it is refused."""
    rows = list(read_rows([f"id,name,{column}\n", "a,Mug,45\n", "b,Cup,4.50\n"], {"price_cents": column})[1])
    assert isinstance(rows[0], Row)
    assert isinstance(rows[1], Rejected)


@pytest.mark.parametrize(
    ("cell", "cents"),
    [
        ("12.99", 1_299), ("12,99", 1_299), (" 12.5 ", 1_250), ("45", 4_500), ("0.07", 7), ("007.10", 710),
        ("90071992547409.91", NUMBER_MAX), ("90071992547409.92", None), ("1,299", None), ("1.299", None), ("1,299.00", None),
        ("-1", None), (".5", None), ("5.", None), ("1e3", None), ("£5", None), ("", None), ("9" * 5_000, None),
    ],
)  # fmt: skip
def test_prices_in_major_units(cell: str, cents: int | None) -> None:
    """Exactly the digits that are there, and nothing that could stand for thousands."""
    assert cents_of(cell) == cents


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(st.lists(st.tuples(_TEXT, _TEXT, st.integers(0, NUMBER_MAX)), max_size=20))
def test_what_a_csv_writer_wrote_is_read_back(products: list[tuple[str, str, int]]) -> None:
    """Any text survives, neither trimmed nor folded, and every row says the line on which a line counter finds its start."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["id", "name", "price_cents"])
    lines = []
    for product in products:
        lines.append(text.getvalue().count("\n") + 1)
        writer.writerow(product)
    rows = rows_of(text.getvalue())
    assert [row.line for row in rows] == lines
    items = [json.loads(row.body) for row in rows if isinstance(row, Row)]
    assert [(item["id"], item["name"], item["price_cents"]) for item in items] == products
