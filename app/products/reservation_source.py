"""Reads of reservations from PostgreSQL: one by its id, lists, and those that are over."""

from collections.abc import Sequence
from typing import Any

from app.cache.postgres.table_source import read_rows
from app.postgres.database import Database
from app.products import reservation_queries
from app.products.errors import NotEnabled, ReservationMissing
from app.products.reservation import HeldLine, HeldUnits, Reservation, ReservationPosition, Status

MOST_COUNTED = 2_000
"""Most lines in which held units are counted for metrics and the dashboard."""


def reservation_of(columns: Sequence[Any]) -> Reservation:
    """Return a reservation made of the queries' columns: those of the reservation, and its lines in JSON."""
    reservation_id, reference, status, expires_at, version, created_at, updated_at, lines = columns
    held = [HeldLine(*line) for line in lines]
    return Reservation(reservation_id, reference, Status(status), expires_at, version, created_at, updated_at, held)


class ReservationSource:
    """The reservations in PostgreSQL, on the connections for lists.

    Most methods send one statement; an empty page sends a second.
    """

    def __init__(self, database: Database) -> None:
        self._lists = database.lists

    async def get(self, reservation_id: str) -> Reservation:
        """Return one reservation. Raises ``NotEnabled``, ``ReservationMissing``, and as ``ProductSource.page``."""
        [[enabled, *columns]] = await read_rows(self._lists, reservation_queries.GET, {"id": reservation_id})
        if not enabled:
            raise NotEnabled("there are no reservations before the migration is finished")
        if columns[0] is None:
            raise ReservationMissing(reservation_id)
        return reservation_of(columns)

    async def by_reference(
        self, reference: str, *, status: Status | None, limit: int, after: ReservationPosition | None
    ) -> list[Reservation]:
        """Return the reservations with a reference after a position, newest first.

        Raises ``NotEnabled``, and as ``ProductSource.page``.
        """
        return await self._page(reservation_queries.LIST_BY_REFERENCE, reference, status, limit, after)

    async def by_product(
        self, product_id: str, *, status: Status | None, limit: int, after: ReservationPosition | None
    ) -> list[Reservation]:
        """Return the reservations that hold units of a product after a position, newest first.

        Raises ``NotEnabled``, and as ``ProductSource.page``.
        """
        return await self._page(reservation_queries.LIST_BY_PRODUCT, product_id, status, limit, after)

    async def ended(self, *, limit: int, lines: int) -> list[str]:
        """Return reservations that have ended and still hold units, up to about so many lines.

        Raises as ``ProductSource.page``.
        """
        rows = await read_rows(self._lists, reservation_queries.ENDED, {"limit": limit, "lines": lines})
        return [reservation_id for [reservation_id] in rows]

    async def held(self) -> HeldUnits:
        """Return how many units are held, counted in at most ``MOST_COUNTED`` lines, the oldest ends first.

        Raises as ``ProductSource.page``.
        """
        limits = {"limit": MOST_COUNTED, "lines": MOST_COUNTED}
        [[units, over, oldest_s]] = await read_rows(self._lists, reservation_queries.HELD, limits)
        return HeldUnits(units, over, oldest_s)

    async def forget(self, *, age_s: float, limit: int) -> int:
        """Remove reservations that were closed more than ``age_s`` ago; return their number.

        Raises as ``ProductSource.page``.
        """
        return len(await read_rows(self._lists, reservation_queries.FORGET, {"age_s": age_s, "limit": limit}))

    async def _page(
        self, statement: Any, owner: str, status: Status | None, limit: int, after: ReservationPosition | None
    ) -> list[Reservation]:
        parameters = {
            "owner": owner,
            # These are always text: another type would prepare the statement once more.
            "created_at": after.created_at.isoformat() if after else "infinity",
            "id": after.id if after else "",
            "status": status.value if status else "",
            "limit": limit,
        }
        rows = await read_rows(self._lists, statement, parameters)
        if not rows:  # perhaps because the migration is not finished
            [[enabled]] = await read_rows(self._lists, reservation_queries.ENABLED, {})
            if not enabled:
                raise NotEnabled("there are no reservations before the migration is finished")
        return [reservation_of(columns) for columns in rows]
