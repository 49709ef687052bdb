"""Each invoice as one adjustment of stocks."""

from typing import Any

from typing_extensions import override

from app.importer.errors import ImportStopped
from benchmarks.sales.invoices import Invoice
from benchmarks.sales.session import Deed, FinalAnswer, Session


class Adjustments(Deed):
    """Books an invoice by one adjustment: all its lines or none."""

    counted = ("accepted", "refused", "unknown", "replays", "lines", "taken_units", "returned_units")

    @override
    async def do(self, invoice: Invoice, repetition: int, session: Session) -> None:
        await self.book(invoice, repetition, session)

    async def book(self, invoice: Invoice, repetition: int, session: Session) -> FinalAnswer:
        """Book it, and return the answer. Raises as ``do``."""
        key = invoice.key(session.run_id, repetition)
        final = await session.post("stock/adjustments", invoice.body(), what=str(invoice), key=key, success=200)
        if final.refused:
            session.refuse(invoice, repetition, final)
            return final
        # Something else may answer 200 to anything: units that it did not book must not be counted as sold.
        if _booked(final.answer) != invoice.deltas:
            raise ImportStopped(f"{session.poster.shown_url} answered 200 to {invoice}, but not with the lines that were sent.")
        session.counts["accepted"] += 1
        session.counts["lines"] += len(invoice.lines)
        session.counts["taken_units"] += invoice.taken_units
        session.counts["returned_units"] += invoice.returned_units
        return final


def _booked(answer: Any) -> list[dict[str, Any]] | None:
    """Return the lines of an answer as they would have been sent, or ``None``."""
    try:
        return [{"product_id": line["product_id"], "delta": line["delta"]} for line in answer["lines"]]
    except (KeyError, TypeError):
        return None
