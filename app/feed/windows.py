"""The marks and windows of the feed in PostgreSQL."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from app.cache.errors import SourceRefused
from app.cache.history import CheckEpoch
from app.cache.postgres.table_source import read_rows
from app.feed import queries
from app.feed.errors import CursorOfAnotherHistory, CursorTooOld
from app.feed.events import PRODUCT_LINE, RESERVATION_LINE, Event, EventType, Position
from app.postgres.database import Database, StatementText
from app.products.payload import SCHEMA, movement_fields, reservation_payload
from app.products.product import Movement, Reason
from app.products.reservation_source import reservation_of
from app.products.source import PRODUCTS

Key = tuple[str, int, int]
"""The members of a ``Position``, in order. A step has thousands of them, and as tuples they come from the driver."""

ALL_TYPES = frozenset(EventType)
START: Key = ("", 0, PRODUCT_LINE)
"""A key before that of every event."""


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest mark of the present epoch."""

    epoch: str
    number: int | None
    """``None`` while no audit of this epoch has completed."""
    age_s: float
    unfenced: bool
    """Whether no slot of the cache can be trusted now, so that no audit makes marks."""


class Windows:
    """Reads marks and windows. Each method is one statement on the connections for lists.

    Args:
        database: the connections.
        margin_ms: added to the life of every fence.
        check_epoch: refuses what an old primary returned.
        clock: the process's clock.
    """

    statement = queries.WINDOW

    def __init__(
        self, database: Database, margin_ms: int, check_epoch: CheckEpoch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool = database.lists
        self._margin = {"margin_s": margin_ms / 1_000}
        self._check_epoch = check_epoch
        self._clock = clock

    async def newest(self) -> Newest:
        """Return the newest mark. Raises as ``read_rows``, and ``SourceDeposed``."""
        asked_at = self._clock()
        [[epoch, number, age_s, unfenced]] = await read_rows(self._pool, queries.NEWEST, {**self._margin, "knows": SCHEMA})
        self._check_epoch(epoch, asked_at)
        return Newest(epoch, number, age_s or 0.0, unfenced)

    async def mark(self) -> bool:
        """Make a mark if no slot can be trusted and something changed; return whether it did. Raises as ``read_rows``."""
        [[made]] = await read_rows(self._pool, queries.MARK, self._margin)
        return bool(made)

    async def read(self, since: int, upto: int, *, limit: int) -> list[Event]:
        """Return the first events of a window, of all types.

        Raises:
            CursorTooOld: the mark ``since`` was removed.
            CursorOfAnotherHistory: there is no mark ``upto`` in the present epoch.
            Exception: as ``newest``.
        """
        schema, rows = await self._found(self.statement, _search(since, upto, ALL_TYPES, limit, START))
        return _events(schema, rows)

    async def step(self, since: int, upto: int, *, limit: int, types: frozenset[EventType]) -> int:
        """Return the last mark up to which there are about ``limit`` events, but at least the next. Raises as ``newest``."""
        [[number]] = await read_rows(self._pool, queries.STEP, _search(since, upto, types, limit))
        return int(number)

    async def keys(self, since: int, upto: int, *, limit: int, types: frozenset[EventType], after: Key) -> list[Key]:
        """Return where the first events of a window after one of them are. Raises as ``read``."""
        _, rows = await self._found(queries.KEYS, _search(since, upto, types, limit, after))
        return [(product_id, version, line) for product_id, version, line in rows]

    async def events(self, since: int, upto: int, keys: Sequence[Key]) -> list[Event]:
        """Return the events of a window at some of its keys. What changed since is left out. Raises as ``read``."""
        ids, versions, lines = zip(*keys, strict=True)
        given = {"ids": list(ids), "versions": list(versions), "lines": list(lines)}
        schema, rows = await self._found(queries.EVENTS, {"knows": SCHEMA, "since": since, "upto": upto, **given})
        return _events(schema, rows)

    async def _found(self, statement: StatementText, parameters: dict[str, Any]) -> tuple[int, list[Sequence[Any]]]:
        """Return the schema of the payload, and the rows without the columns that say whether the window is there."""
        asked_at = self._clock()
        rows = await read_rows(self._pool, statement, parameters)
        epoch, schema, first, last, *_ = rows[0]
        self._check_epoch(epoch, asked_at)
        if last is None:
            raise CursorOfAnotherHistory
        if first is None:
            raise CursorTooOld
        return schema, [columns for _, _, _, _, *columns in rows if columns[0] is not None]

    async def forget(self, *, age_s: float, limit: int) -> int:
        """Remove up to ``limit`` old marks; return their number. Raises a ``DatabaseError``."""
        return len(await self._pool.rows(queries.FORGET, {"age_s": age_s, "limit": limit}))


def _search(since: int, upto: int, types: frozenset[EventType], limit: int, after: Key | None = None) -> dict[str, Any]:
    place = {} if after is None else dict(zip(("id", "version", "line"), after, strict=True))
    wanted = {
        "products": EventType.PRODUCT in types,
        "movements": EventType.MOVEMENT in types,
        "reservations": EventType.RESERVATION in types,
    }
    return {"knows": SCHEMA, "since": since, "upto": upto, "limit": limit, **wanted, **place}


def _events(schema: int, rows: Iterable[Sequence[Any]]) -> list[Event]:
    return [event for columns in rows if (event := _event(schema, columns)) is not None]


def _event(schema: int, columns: Sequence[Any]) -> Event | None:
    position = Position(*columns[:3])
    movement, reservation, [present, *product] = columns[3:11], columns[11:17], columns[17:]
    if position.line == RESERVATION_LINE:
        return _reservation(position, reservation)
    if position.line == PRODUCT_LINE:
        return None if present is None else _product(position, schema, product if present else None)
    return _movement(position, movement)


def _movement(position: Position, columns: Sequence[Any]) -> Event:
    delta, stock_after, reason, *rest = columns
    movement = Movement(position.id, position.version, position.line, delta, stock_after, Reason(reason), *rest)
    members = {"type": EventType.MOVEMENT.value, **movement_fields(movement)}
    return Event(EventType.MOVEMENT, position, json.dumps(members, separators=(",", ":")).encode())


def _product(position: Position, schema: int, columns: Sequence[Any] | None) -> Event:
    body = b"null"
    if columns is not None:
        payload = PRODUCTS.payload_of(schema)
        if payload is None:
            raise SourceRefused(f"this release has no payload of schema {schema}, which the database is at")
        body = payload(id=position.id, version=position.version, **dict(zip(PRODUCTS.columns, columns, strict=True)))
    return Event(EventType.PRODUCT, position, _named(EventType.PRODUCT, position) + body + b"}")


def _reservation(position: Position, columns: Sequence[Any]) -> Event | None:
    reference, status, expires_at, created_at, updated_at, lines = columns
    if status is None:
        return None
    found = (position.id, reference, status, expires_at, position.version, created_at, updated_at, lines)
    body = reservation_payload(reservation_of(found))
    return Event(EventType.RESERVATION, position, _named(EventType.RESERVATION, position) + body + b"}")


def _named(kind: EventType, position: Position) -> bytes:
    """Return the beginning of an event whose last member has the name of its type. An id has nothing that JSON would escape."""
    return f'{{"type":"{kind}","id":"{position.id}","version":{position.version},"{kind}":'.encode()
