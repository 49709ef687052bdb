"""The whole file once, before anything is sent.

A replay that is to be checked to the unit must not leave out what it cannot read: any bad row ends it here, with nothing
sent. The survey also tells how many requests there will be, and which ids and invoices are not what they seem.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.importer.errors import BadInput
from app.importer.records import Columns, Refusal
from app.importer.source import CsvSource
from app.replay.adjustments import Adjustment, by_invoice
from app.replay.ids import IdMap, MappedIds
from app.replay.sales import SaleLine, read_sales

_SHOWN_ROWS = 10


@dataclass(frozen=True, slots=True)
class Survey:
    """What a file of sales holds."""

    columns: Columns
    rows: int
    zero_rows: int
    """Rows of quantity 0, which are not sent."""
    requests: int
    further_parts: int
    """Requests that are not the first of their invoice."""
    collisions: str
    """A sentence about codes that became the same id, or nothing."""

    def notices(self) -> Iterator[str]:
        """What a person should know of it before it is replayed."""
        if self.zero_rows:
            yield f"Rows left out because their quantity is 0: {self.zero_rows:,}."
        if self.further_parts:
            yield (
                f"Requests that are further parts of an invoice: {self.further_parts:,}. Its rows do not follow one another, "
                "or are more than one request can hold; each part is accepted or refused by itself."
            )
        if self.collisions:
            yield self.collisions


class SalesFile:
    """A file of sales that can be read again and again, under one reading of its columns and codes."""

    def __init__(self, path: Path, mapping: Mapping[str, str], id_map: IdMap) -> None:
        self._path = path
        self._mapping = mapping
        self._id_map = id_map

    def survey(self) -> Survey:
        """Read all of it. Errors: `BadInput` for a file that cannot be read, or rows that are no sales."""
        ids, rows, zero_rows = MappedIds(self._id_map), 0, 0
        bad: list[Refusal] = []
        bad_rows = 0

        def good(sales: Iterator[SaleLine | Refusal]) -> Iterator[SaleLine]:
            nonlocal rows, zero_rows, bad_rows
            for sale in sales:
                if isinstance(sale, Refusal):
                    bad_rows += 1
                    # Only what is shown is kept: the file may be long, and every row of it bad.
                    bad.extend([sale] if len(bad) < _SHOWN_ROWS else [])
                    continue
                rows += 1
                zero_rows += sale.quantity == 0
                yield sale

        requests = further_parts = 0
        with CsvSource(self._path) as source:
            columns, sales = read_sales(source.lines(), self._mapping, ids.id_of)
            for adjustment in by_invoice(good(sales)):
                requests += 1
                further_parts += adjustment.part > 1
        if bad_rows:
            raise BadInput(_bad_rows_text(self._path, bad, bad_rows))
        return Survey(columns, rows, zero_rows, requests, further_parts, ids.collisions_text())

    def adjustments(self) -> Iterator[Adjustment]:
        """Its requests, in the order of the file, read as they are asked for. Errors: `BadInput` if the file changed."""
        with CsvSource(self._path) as source:
            _, sales = read_sales(source.lines(), self._mapping, MappedIds(self._id_map).id_of)
            yield from by_invoice(self._unchanged(sales))

    def _unchanged(self, sales: Iterator[SaleLine | Refusal]) -> Iterator[SaleLine]:
        for sale in sales:
            if isinstance(sale, Refusal):
                raise BadInput(
                    f"Line {sale.line} of {self._path} is no sale: {sale.reason}. It was one when the replay began, "
                    "so the file has changed. Put it back, and replay it with the same --run-id."
                )
            yield sale


def _bad_rows_text(path: Path, bad: list[Refusal], count: int) -> str:
    listed = "\n".join(f"  line {refusal.line}: {refusal.reason}" for refusal in bad)
    more = f"\n  and {count - len(bad):,} more" if count > len(bad) else ""
    rows = "1 row is" if count == 1 else f"{count:,} rows are"
    return (
        f"{rows} no sale, so nothing of {path} was replayed: a part of it would not add up.\n{listed}{more}\n"
        "Correct or remove them, and run the same command again."
    )
