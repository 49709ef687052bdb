"""Sales to requests: one for each invoice, all its lines or none.

- Rows of one invoice that follow one another are one request. If there are more than the service takes, they are split in the
  order of the file; if the invoice comes again further down, that is a request of its own. Both are parts 2, 3 … of it.
  The same file gives the same parts, always: the idempotency keys depend on it.
- A quantity sold takes units (delta below zero), a negative quantity brings them back. A quantity of zero is left out.
- The reason is ``return`` when every line brings units back, else ``sale``, since a request has one reason.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from urllib.parse import quote

from benchmarks.sales.sales import Sale

LINES_MAX = 2_000
"""Lines that the service takes in one request."""
_INVOICE_KEY_CHARS = 120


@dataclass(frozen=True, slots=True)
class Invoice:
    """One request: the lines of an invoice, or a part of them, that change a stock."""

    number: str
    part: int
    """From 1."""
    lines: Sequence[Sale]
    """None of quantity 0, 1 to ``LINES_MAX``."""

    @property
    def taken_units(self) -> int:
        """Units that it takes from stocks."""
        return sum(max(0, line.quantity) for line in self.lines)

    @property
    def returned_units(self) -> int:
        """Units that it adds to stocks."""
        return sum(max(0, -line.quantity) for line in self.lines)

    @property
    def deltas(self) -> list[dict[str, str | int]]:
        """What it does to each stock, in its order."""
        return [{"product_id": line.product_id, "delta": -line.quantity} for line in self.lines]

    def __str__(self) -> str:
        return f"invoice {self.number}" if self.part == 1 else f"invoice {self.number}, part {self.part}"

    def body(self) -> bytes:
        """The JSON to send, the same bytes each time: the service compares them with those of its first arrival."""
        reason = "sale" if self.taken_units else "return"
        request = {"lines": self.deltas, "reason": reason, "reference": self.number}
        return json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode()

    def key(self, run_id: str, repetition: int) -> str:
        """Its idempotency key in a run: printable ASCII, no two requests of one run alike, at most 255 characters."""
        # Percent-encoding leaves no `:` over, so the parts of a key cannot run into one another.
        number = quote(self.number, safe="")
        if len(number) > _INVOICE_KEY_CHARS:
            number = "sha256-" + hashlib.sha256(self.number.encode()).hexdigest()
        return f"{run_id}:{repetition}:{number}:{self.part}"


def by_invoice(sales: Iterable[Sale]) -> Iterator[Invoice]:
    """The requests for these sales, in the order of the file."""
    parts: Counter[str] = Counter()
    for number, rows in groupby(sales, key=attrgetter("invoice")):
        lines = [row for row in rows if row.quantity]
        for start in range(0, len(lines), LINES_MAX):
            parts[number] += 1
            yield Invoice(number, parts[number], lines[start : start + LINES_MAX])
