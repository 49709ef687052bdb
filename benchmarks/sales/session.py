"""What the requests of one run share, and what is done for an invoice."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from app.importer.posting import Poster, json_of
from benchmarks.sales.invoices import Invoice
from benchmarks.sales.runlog import RunLog

_REFUSED_STATUSES = frozenset({400, 409, 412, 413, 422})
_NAMED_BY_404 = ("missing", "reservation_id")
_SHOWN_CHARS = 500


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """An answer that is final: its status, and its JSON, or the beginning of what is no JSON."""

    status: int
    answer: Any
    refused: bool
    repeated: bool
    """Whether it was decided for an earlier try, whose answer was lost."""


@dataclass(frozen=True, slots=True)
class Session:
    """The connections, the name, the list of refusals and the counts of one run."""

    poster: Poster
    refusals: RunLog
    run_id: str
    counts: Counter[str] = field(default_factory=Counter)

    async def post(self, path: str, body: bytes, *, what: str, key: str, success: int) -> FinalAnswer:
        """Send a request until there is an answer, and count a repeated one.

        Raises:
            ImportStopped: the answer is neither a success nor a refusal, or as ``Poster.post`` does.
        """
        response = await self.poster.post(path, body, what=what, key=key)
        status, answer = response.status_code, json_of(response)
        refused = status in _REFUSED_STATUSES or (
            status == httpx.codes.NOT_FOUND and isinstance(answer, dict) and any(name in answer for name in _NAMED_BY_404)
        )
        if status != success and not refused:
            raise self.poster.stopped_by(response, what)
        repeated = response.headers.get("Idempotent-Replayed") == "true"
        self.counts["replays"] += repeated
        return FinalAnswer(status, response.text[:_SHOWN_CHARS] if answer is None else answer, refused, repeated)

    def refuse(self, invoice: Invoice, repetition: int, final: FinalAnswer) -> None:
        """Count and list a refusal."""
        self.counts["refused"] += 1
        self.refusals.add(invoice, repetition, outcome="refused", status=final.status, problem=final.answer)


class Deed(Protocol):
    """What is done for each invoice."""

    counted: Sequence[str]
    """The counts that the summary shows, in order."""

    async def do(self, invoice: Invoice, repetition: int, session: Session) -> None:
        """See an invoice through, and count what became of it. Doing it again is safe.

        Raises:
            ImportStopped: no answer came, or one that every other request would get, too.
        """
