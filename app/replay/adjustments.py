"""Lines of sales to requests: one for each invoice, all its lines or none.

- Rows of one invoice that follow one another are one request. If there are more than the service takes, they are split
  in the order of the file; if the invoice comes again further down, that is a request of its own. Both are parts 2, 3 …
  of the invoice. The same file gives the same parts, always: the idempotency keys depend on it.
- A quantity sold takes units (delta below zero), a negative quantity brings them back. A quantity of zero changes nothing
  and is left out.
- The reason is `return` when every line brings units back, else `sale`: a request has one reason, and the signs of its
  deltas tell the rest.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Literal
from urllib.parse import quote

from app.replay.sales import SaleLine

LINES_MAX = 2_000
"""Lines that the service takes in one request."""
_INVOICE_KEY_CHARS = 120

Reason = Literal["sale", "return"]


@dataclass(frozen=True, slots=True)
class Adjustment:
    """One request: the lines of an invoice, or a part of them, that change a stock."""

    invoice: str
    part: int
    """From 1."""
    lines: Sequence[SaleLine]
    """None of quantity 0, 1 to `LINES_MAX`."""

    @property
    def reason(self) -> Reason:
        """What the ledger calls it."""
        return "return" if all(line.quantity < 0 for line in self.lines) else "sale"

    @property
    def taken_units(self) -> int:
        """Units that it takes from stocks."""
        return sum(line.quantity for line in self.lines if line.quantity > 0)

    @property
    def returned_units(self) -> int:
        """Units that it adds to stocks."""
        return -sum(line.quantity for line in self.lines if line.quantity < 0)

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"invoice {self.invoice}" if self.part == 1 else f"invoice {self.invoice}, part {self.part}"

    def body(self) -> bytes:
        """The JSON to send, the same bytes each time: the service compares them with those of its first arrival."""
        lines = [{"product_id": line.product_id, "delta": -line.quantity} for line in self.lines]
        request = {"lines": lines, "reason": self.reason, "reference": self.invoice}
        return json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode()

    def key(self, run_id: str, repetition: int) -> str:
        """Its idempotency key in a run: printable ASCII, no two requests of one run alike, at most 255 characters."""
        return f"{run_id}:{repetition}:{_invoice_in_key(self.invoice)}:{self.part}"


def _invoice_in_key(invoice: str) -> str:
    # Percent-encoding leaves no `:` over, so the parts of a key cannot run into one another.
    encoded = quote(invoice, safe="")
    if len(encoded) <= _INVOICE_KEY_CHARS:
        return encoded
    return "sha256-" + hashlib.sha256(invoice.encode()).hexdigest()


def by_invoice(sales: Iterable[SaleLine]) -> Iterator[Adjustment]:
    """The requests for these sales, in the order of the file. Remembers each invoice's number, not its lines."""
    parts: Counter[str] = Counter()
    for invoice, lines in groupby(sales, key=attrgetter("invoice")):
        for some in _portions(line for line in lines if line.quantity != 0):
            parts[invoice] += 1
            yield Adjustment(invoice, parts[invoice], some)


def _portions(lines: Iterator[SaleLine]) -> Iterator[list[SaleLine]]:
    portion: list[SaleLine] = []
    for line in lines:
        if len(portion) == LINES_MAX:
            yield portion
            portion = []
        portion.append(line)
    if portion:
        yield portion
