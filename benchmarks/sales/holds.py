"""Each invoice of sales as a hold that comes to an end, and each invoice of returns as an adjustment.

| of ten invoices, by the hash of the number | after the hold |
|---|---|
| 7 | it is committed |
| 1 | half of every second line is committed, and the rest released |
| 1 | it is released |
| 1 | nothing: it ends by itself after 1 to 3 s |

The answers are written down for the verification, each with the newest moment of the database that any answer had named before
its request was sent: a hold whose end had come by then must not have kept its units from the request. A repeated answer has no
such moment, because it may have been decided in an earlier run.
"""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from typing_extensions import override

from app.importer.errors import ImportStopped
from benchmarks.sales.adjustments import Adjustments
from benchmarks.sales.invoices import Invoice
from benchmarks.sales.runlog import RunLog
from benchmarks.sales.session import Deed, FinalAnswer, Session

LIFE_S = 600
"""The life of a hold that somebody will end."""
_SHORTEST_S, _LONGEST_S = 1, 3
_TENTHS = 10
_COMMITTED_TENTHS = 7


class Fate(StrEnum):
    """What becomes of an invoice."""

    COMMIT = "commit"
    PART = "part"
    RELEASE = "release"
    LEAVE = "leave"
    RETURN = "return"


def fate_of(invoice: Invoice) -> Fate:
    """Return what becomes of an invoice: the same each time."""
    if invoice.returned_units:
        return Fate.RETURN
    tenth = _hash(invoice.number) % _TENTHS
    if tenth < _COMMITTED_TENTHS:
        return Fate.COMMIT
    return (Fate.PART, Fate.RELEASE, Fate.LEAVE)[tenth - _COMMITTED_TENTHS]


def life_s(invoice: Invoice) -> int:
    """Return for how long an invoice's hold lasts."""
    if fate_of(invoice) is not Fate.LEAVE:
        return LIFE_S
    return _SHORTEST_S + _hash(invoice.number) // _TENTHS % (_LONGEST_S - _SHORTEST_S + 1)


def hold_body(invoice: Invoice) -> bytes:
    """Return the JSON that asks for the hold, the same bytes each time."""
    lines = [{"product_id": line.product_id, "quantity": line.quantity} for line in invoice.lines]
    return _json({"lines": lines, "expires_in_s": life_s(invoice), "reference": invoice.number})


def commit_body(invoice: Invoice) -> bytes:
    """Return the JSON of the commit: of all, or of half of every second line."""
    if fate_of(invoice) is Fate.COMMIT:
        return b"{}"
    half = [{"line": number, "quantity": -(-line.quantity // 2)} for number, line in enumerate(invoice.lines)]
    return _json({"lines": half[::2], "rest": "release"})


class Holds(Deed):
    """Holds what an invoice sells, waits for up to ``pause_s``, and ends the hold."""

    counted = (
        "accepted", "refused", "unknown", "replays", "lines", "held_units", "returned_units",
        *(f"holds_{fate}" for fate in (Fate.COMMIT, Fate.PART, Fate.RELEASE, Fate.LEAVE)), "ends_refused",
    )  # fmt: skip

    def __init__(self, answers: RunLog, *, pause_s: float = 0.0) -> None:
        self._answers = answers
        self._pause_s = pause_s
        self._returns = Adjustments()
        self._heard: datetime | None = None
        """The newest moment of the database that an answer has named."""

    @override
    async def do(self, invoice: Invoice, repetition: int, session: Session) -> None:
        fate, heard = fate_of(invoice), self._heard
        end: FinalAnswer | None = None
        if fate is Fate.RETURN:
            first = await self._returns.book(invoice, repetition, session)
        else:
            first = await self._hold(invoice, repetition, session)
            if not first.refused:
                session.counts[f"holds_{fate}"] += 1
                end = await self._end(invoice, repetition, session, first.answer["id"])
        self._answers.add(
            invoice,
            repetition,
            fate=fate,
            heard=None if heard is None or first.repeated else heard.isoformat(),
            first=_document(first),
            end=None if end is None else _document(end),
        )

    async def _hold(self, invoice: Invoice, repetition: int, session: Session) -> FinalAnswer:
        key = f"{invoice.key(session.run_id, repetition)}:hold"
        final = await session.post("reservations", hold_body(invoice), what=f"the hold of {invoice}", key=key, success=201)
        if final.refused:
            session.refuse(invoice, repetition, final)
            return final
        if _held(final.answer) != [(line.product_id, line.quantity) for line in invoice.lines]:
            raise ImportStopped(
                f"{session.poster.shown_url} answered 201 to the hold of {invoice}, but not with the lines that were sent."
            )
        self._hear(final.answer)
        session.counts["accepted"] += 1
        session.counts["lines"] += len(invoice.lines)
        session.counts["held_units"] += invoice.taken_units
        return final

    async def _end(self, invoice: Invoice, repetition: int, session: Session, reservation_id: str) -> FinalAnswer | None:
        fate = fate_of(invoice)
        if fate is Fate.LEAVE:
            return None
        await asyncio.sleep(self._pause_s * (_hash(f"{invoice.number} {repetition}") % 100) / 100)
        verb, body = ("release", b"{}") if fate is Fate.RELEASE else ("commit", commit_body(invoice))
        path, what = f"reservations/{reservation_id}/{verb}", f"the {verb} of {invoice}"
        final = await session.post(path, body, what=what, key=f"{invoice.key(session.run_id, repetition)}:end", success=200)
        if final.refused:
            session.counts["ends_refused"] += 1
        else:
            self._hear(final.answer)
        return final

    def _hear(self, reservation: Mapping[str, Any]) -> None:
        moment = datetime.fromisoformat(reservation["updated_at"])
        if self._heard is None or moment > self._heard:
            self._heard = moment


def _held(answer: Any) -> list[tuple[str, int]] | None:
    """Return the lines of an answer as they would have been sent, or ``None``."""
    try:
        return [(line["product_id"], line["quantity"]) for line in answer["lines"]]
    except (KeyError, TypeError):
        return None


def _document(final: FinalAnswer) -> dict[str, Any]:
    return {"status": final.status, "answer": final.answer}


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _json(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
