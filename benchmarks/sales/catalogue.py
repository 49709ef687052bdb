"""The products of a file of sales, as a CSV for ``larder import``.

A product has the last description that is not blank (else its code), the median of its prices in cents, halves rounded up (0 if
that is below zero), and an opening stock. Codes that become the same id are one product; codes that differ only by case are
different ones.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path
from statistics import median

from app.importer.errors import ImportStopped
from benchmarks.sales.sales import Sale

HEADER = ("id", "name", "price_cents", "stock")


@dataclass(frozen=True, slots=True)
class Opening:
    """What a product has before the first sale: a number of units or, if there is a share, that share of what it sells."""

    units: int = 0
    share: Fraction | None = None

    def stock(self, sold: int) -> int:
        """Units, rounded down, for a product of which so many are sold (returns not counted)."""
        return self.units if self.share is None else int(self.share * sold)


@dataclass(slots=True)
class Product:
    """What the file says of one product."""

    id: str
    name: str
    prices: list[Decimal] = field(default_factory=list)
    sold: int = 0
    """Units of rows with a quantity above 0."""

    def price_cents(self) -> int:
        """The median in cents."""
        return max(0, int((median(self.prices) * 100).quantize(Decimal(1), ROUND_HALF_UP)))


def products_of(sales: Iterable[Sale]) -> list[Product]:
    """The products, in the order of their ids."""
    products: dict[str, Product] = {}
    for sale in sales:
        product = products.setdefault(sale.product_id, Product(sale.product_id, sale.code))
        product.name = sale.name if sale.name.strip() else product.name
        product.prices.append(sale.price)
        product.sold += max(0, sale.quantity)
    return [products[product_id] for product_id in sorted(products)]


def write_catalogue(products: Iterable[Product], opening: Opening, path: Path) -> int:
    """Write the CSV; the units of all openings. Raises ``ImportStopped`` when it cannot be written."""
    rows = [(product.id, product.name, product.price_cents(), opening.stock(product.sold)) for product in products]
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([HEADER, *rows])
    except OSError as error:
        raise ImportStopped(f"Cannot write {path}: {error.strerror or error}. Name another file.") from error
    return sum(stock for *_, stock in rows)
