"""The rules and transactions of reservations, each time with one guard off. docs/guards.toml names the guard of each."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from typing_extensions import override

from app.postgres.database import Session, Statement
from app.products import queries, reservation_queries
from app.products.errors import UnitsNeeded
from app.products.reservation import EndedLine, Status
from app.products.shelf import Facts, Shelf
from app.products.transaction import Committed, Transaction
from app.products.transactions import ProductTransactions


class LeavesReservationHeld(Shelf):
    """A line is given back because its end has come, and its reservation stays held."""

    @override
    def _expire(self, line: EndedLine, moment: datetime) -> int:
        units = super()._expire(line, moment)
        self.changes[line.reservation_id] = replace(self.changes[line.reservation_id], status=None)
        return units


class RefusesWithoutClosing(Shelf):
    """A reservation that is over is refused, and stays as it is."""

    @override
    def _close_if_over(self, reservation_id: str) -> None:
        reservation = self._reservations.get(reservation_id)
        if reservation and reservation.is_over(self._facts.moment_of(reservation.product_ids)):
            self._reservations[reservation_id] = replace(reservation, status=Status.EXPIRED)


class SweepsPastOpenLines(Shelf):
    """The mark of ended lines rises to the moment, although some are still open."""

    @override
    def _sweep(self, product_id: str) -> None:
        self.swept[product_id] = self._facts.moment_of((product_id,))


class RefusesUnitsOfEndedReservations(Shelf):
    """Nobody gets the units of a reservation that has ended until it is tidied up."""

    @override
    def _give_back(self, lack: UnitsNeeded) -> bool:
        return False


class BelievesTheClock(Shelf):
    """The moment is the clock's, even if a product knows a later one."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(_ClockOnly(facts.rows, facts.swept, facts.reservations, facts.moment, facts.enabled, facts.ended))


class _ClockOnly(Facts):
    @override
    def moment_of(self, product_ids: Collection[str]) -> datetime:
        return self.moment or datetime.min.replace(tzinfo=UTC)


class NeverClosesNamed(Shelf):
    """A reservation that is over is carried out as if it were not."""

    @override
    def _close_if_over(self, reservation_id: str) -> None:
        return


BY_NAME: Mapping[str, type[Shelf]] = {
    mutant.__name__: mutant
    for mutant in (
        LeavesReservationHeld,
        RefusesWithoutClosing,
        SweepsPastOpenLines,
        RefusesUnitsOfEndedReservations,
        BelievesTheClock,
        NeverClosesNamed,
    )
}


class _Early(Transaction):
    """Reads the reservations before it waits for the rows, as well as after that."""

    @override
    async def _begin(self, session: Session) -> list[Statement]:
        named = sorted({key for request in self._direct for key in request.command.reservation_ids})
        [_, self._read_early] = await session.pipeline(("BEGIN", None), (reservation_queries.READ, {"ids": named}))
        if self._patience is None:
            return []
        limit: Statement = (queries.LOCK_TIMEOUT, {"timeout": str(self._patience.wait_ms)})
        return [limit, (queries.WAIT, {"ids": list(self._patience.ids)})]


class _EarlyMoment(_Early):
    @override
    def _note_reservations(self, found: Sequence[Sequence[Any]]) -> None:
        super()._note_reservations(found)
        self._facts.moment = self._read_early[0][0]


class _EarlyLines(_Early):
    @override
    def _note_reservations(self, found: Sequence[Sequence[Any]]) -> None:
        super()._note_reservations(self._read_early)
        self._facts.moment = found[0][0]


class ReadsMomentBeforeLocks(ProductTransactions):
    """The moment of the decisions is that at which a transaction begins to wait."""

    @override
    async def _once(self, work: Transaction) -> Committed:
        work.__class__ = _EarlyMoment
        return await super()._once(work)


class ReadsLinesBeforeLocks(ProductTransactions):
    """A transaction decides on the lines as they were when it began to wait."""

    @override
    async def _once(self, work: Transaction) -> Committed:
        work.__class__ = _EarlyLines
        return await super()._once(work)


OF_TRANSACTIONS: Mapping[str, type[ProductTransactions]] = {
    mutant.__name__: mutant for mutant in (ReadsMomentBeforeLocks, ReadsLinesBeforeLocks)
}
