"""The products of a file of sales, as a CSV for `larder import`.

A sales file has no catalogue; this makes one: for each product the last description that is not blank (else its code), the
median of its prices in cents, rounded half up, and an opening stock. Products are told apart by their ids, case
included; codes that become the same id are one product.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Final

from app.importer.errors import BadInput, BadOutput
from app.importer.records import Columns, Record, Refusal, read_records, shown
from app.importer.source import CsvSource
from app.replay.ids import MappedIds, sanitize
from app.replay.sales import signed_whole_number

FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "product": ("stock_code", "StockCode", "product_id"),
    "name": ("description", "name"),
    "quantity": ("quantity",),
    "price": ("unit_price", "UnitPrice", "Price"),
}
HEADER = ("id", "name", "price_cents", "stock")

_PRICE = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")


@dataclass(frozen=True, slots=True)
class Opening:
    """What a product has before the first sale: a number of units or, if there is a share, that share of what it sells."""

    units: int = 0
    share: Fraction | None = None

    def stock(self, sold: int) -> int:
        """Units, rounded down, for a product of which so many are sold (returns not counted)."""
        return self.units if self.share is None else int(self.share * sold)


@dataclass(slots=True)
class Sold:
    """What the file says of one product."""

    id: str
    name: str
    prices: Counter[Decimal] = field(default_factory=Counter)
    sold: int = 0
    """Units of rows with a quantity above 0."""

    def price_cents(self) -> int:
        """The median in cents, half up; 0 where it is below 0, which no price of a product can be."""
        cents = (_median(self.prices) * 100).quantize(Decimal(1), ROUND_HALF_UP)
        return max(0, int(cents))


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The products of a file, in the order of their ids, and what a person should know of them."""

    products: list[Sold]
    notices: list[str]


def _median(values: Counter[Decimal]) -> Decimal:
    """The middle value, or the mean of the two in the middle. At least one value."""
    count = values.total()
    middle: list[Decimal] = []
    seen = 0
    for value in sorted(values):
        before, seen = seen, seen + values[value]
        middle += [value for rank in ((count - 1) // 2, count // 2) if before <= rank < seen]
    return (middle[0] + middle[1]) / 2


def read_catalogue(path: Path, mapping: Mapping[str, str]) -> Catalogue:
    """The products of a file of sales. Errors: `BadInput` for a file that cannot be read, or a row that is no sale."""
    ids = MappedIds(sanitize)
    products: dict[str, Sold] = {}
    with CsvSource(path) as source:
        columns, records = read_records(source.lines(), mapping, FIELDS, tuple(FIELDS))
        for code, name, quantity, price in _cells(records, columns):
            product_id = ids.id_of(code)
            product = products.setdefault(product_id, Sold(product_id, code))
            product.name = name if name.strip() else product.name
            product.prices[price] += 1
            product.sold += max(0, quantity)
    listed = [products[product_id] for product_id in sorted(products)]
    notices = [ids.collisions_text()] if ids.collisions() else []
    if renamed := ids.renamed():
        notices.append(f"Codes changed because of their length, or of characters that an id may not have: {renamed:,}.")
    if below := sum(_median(product.prices) < 0 for product in listed):
        notices.append(f"Products whose median price is below 0, which became 0: {below:,}.")
    return Catalogue(listed, notices)


def _cells(records: Iterable[Record | Refusal], columns: Columns) -> Iterator[tuple[str, str, int, Decimal]]:
    """Code, description, quantity and price of each row."""
    order = [columns.positions[name] for name in FIELDS]
    for record in records:
        if isinstance(record, Refusal):
            raise BadInput(f"Line {record.line} is no sale: {record.reason}. Nothing was written.")
        code, name, quantity_cell, price_cell = (record.cells[position] for position in order)
        quantity = signed_whole_number(quantity_cell)
        if not code.strip() or quantity is None or _PRICE.fullmatch(price_cell.strip()) is None:
            told = f"product {shown(code)}, quantity {shown(quantity_cell)}, price {shown(price_cell)}"
            raise BadInput(
                f"Line {record.line} is no sale: {told}. It needs a product, a whole quantity, and a price such as 2.55. "
                "Nothing was written."
            )
        yield code, name, quantity, Decimal(price_cell.strip())


def write_catalogue(catalogue: Catalogue, opening: Opening, path: Path) -> None:
    """Write the CSV. Errors: `BadOutput`, and then no file of that name was changed."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(HEADER)
            writer.writerows((p.id, p.name, p.price_cents(), opening.stock(p.sold)) for p in catalogue.products)
        # At the end, whole: an import of half a catalogue would be missed only by the sales that it refuses.
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise BadOutput(f"Cannot write {path}: {error.strerror or error}. Name another file.") from error
