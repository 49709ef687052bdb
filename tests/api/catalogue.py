"""The service without servers: the same rules on rows in memory, and faults on demand."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from app.cache.ports import Absent, Reading, State, Value
from app.cache.write_through import Peeked, Read, Status
from app.products import commands
from app.products.commands import Command, Effect
from app.products.errors import KeyReused, ProductsMissing, Refused
from app.products.idempotency import NO_ORIGIN, Origin, Replayed, StoredAnswer
from app.products.payload import product_payload
from app.products.product import (
    Gone,
    LedgerPosition,
    Movement,
    Position,
    Product,
    Row,
)
from app.products.service import LedgerPage, Page

EPOCH = "0123456789abcdef"
_BEGAN = datetime(2026, 1, 31, 9, 5, tzinfo=UTC)


class InMemoryCatalogue:
    """``app.api.state.Catalogue`` on a dict; ids that were read once are hits from then on."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.cached: set[str] = set()
        self.hot = False
        """Whether the hot read finds what is cached; else every read reaches the endpoints."""
        self.held: list[Callable[[], None]] | None = None
        """The hot read's answers while it is a list: called by the test, each in its time."""
        self.fault: Exception | None = None
        """Raised by every call while set."""
        self.answer_as: Read | None = None
        """Status and detail of every read while set."""
        self.answers: dict[str, Read] = {}
        """The same for single ids."""
        self.wishes: list[tuple[bool, int]] = []
        """``refresh`` and ``stale_s`` of each read."""
        self.readings: list[Reading | None] = []
        """What the hot read had found for each single read."""
        self.writes: list[Command] = []
        self.origins: list[Origin] = []
        """Where each write came from, the replayed ones included."""
        self.ledger: list[Movement] = []
        self.stored: dict[tuple[str, str], StoredAnswer] = {}

    async def get(self, product_id: str, *, refresh: bool = False, stale_s: int = 0, reading: Reading | None = None) -> Read:
        self.readings.append(reading)
        return (await self.get_many([product_id], refresh=refresh, stale_s=stale_s))[0]

    def peek(self, product_id: str, then: Callable[[Peeked], None]) -> None:
        hot = self.hot and product_id in self.cached and self.answer_as is None and product_id not in self.answers
        state = self._read(product_id, refresh=False).state if hot and self.fault is None else None
        answer = partial(then, state if isinstance(state, Value) else Reading("", [None]))
        if self.held is None:
            asyncio.get_running_loop().call_soon(answer)
        else:
            self.held.append(answer)

    async def get_many(self, ids: Sequence[str], *, refresh: bool = False, stale_s: int = 0) -> list[Read]:
        self._fail()
        self.wishes.append((refresh, stale_s))
        return [self._read(product_id, refresh=refresh) for product_id in ids]

    async def list_page(
        self, *, limit: int, after: Position | None = None, prefix: str = "", below_reorder_point: bool = False
    ) -> Page:
        self._fail()
        products = [row for row in self.rows.values() if isinstance(row, Product)]
        matching = (p for p in products if p.name.lower().startswith(prefix.lower()))
        if below_reorder_point:
            matching = (p for p in matching if p.stock < p.reorder_point)
        by_name = prefix and not below_reorder_point
        placed = sorted((p.name.lower() if by_name else "", p.id, p) for p in matching)
        begin = (after.name_key, after.id) if after else ("", "")
        rest = [(Position(product_id, key), p) for key, product_id, p in placed if (key, product_id) > begin]
        shown = rest[:limit]
        return Page([product_payload(p) for _, p in shown], shown[-1][0] if len(rest) > limit else None)

    async def movements(self, product_id: str, *, limit: int, after: LedgerPosition | None = None) -> LedgerPage:
        self._fail()
        found = [movement for movement in self.ledger if movement.product_id == product_id]
        if not found:
            raise ProductsMissing((product_id,))
        return _ledger_page(found, limit, after, lambda place: (place.version, place.line))

    async def movements_by_reference(self, reference: str, *, limit: int, after: LedgerPosition | None = None) -> LedgerPage:
        self._fail()
        found = [movement for movement in self.ledger if movement.reference == reference]
        return _ledger_page(found, limit, after, lambda place: (place.created_at, place.product_id, place.version, place.line))

    async def drop(self, product_id: str) -> None:
        self._fail()
        self.cached.discard(product_id)

    def _fail(self) -> None:
        if self.fault is not None:
            raise self.fault

    def _read(self, product_id: str, *, refresh: bool) -> Read:
        row = self.rows.get(product_id, Gone(product_id, 0))
        state: State = Absent(product_id, EPOCH, row.version)
        if isinstance(row, Product):
            state = Value(product_id, EPOCH, row.version, product_payload(row))
        if given := self.answers.get(product_id, self.answer_as):
            return replace(given, state=state)
        status = Status.REFRESHED_STORED if refresh else Status.HIT if product_id in self.cached else Status.STORED
        self.cached.add(product_id)
        return Read(state, status)

    async def write(self, command: Command, origin: Origin = NO_ORIGIN) -> Sequence[Effect]:
        self._fail()
        self.origins.append(origin)
        key = origin.idempotency_key
        if key is None:
            return self._change(command) if command.keys else ()
        if stored := self.stored.get((key.caller, key.key)):
            raise Replayed(stored.answer) if stored.request_hash == key.request_hash else KeyReused("another request")
        try:
            result: Sequence[Effect] | Refused = self._change(command)
        except Refused as refusal:
            result = refusal
        if answer := key.render(result):
            self.stored[key.caller, key.key] = StoredAnswer(key.request_hash, answer, command.keys)
        if isinstance(result, Refused):
            raise result
        return result

    def _change(self, command: Command) -> Sequence[Effect]:
        self.writes.append(command)
        written = []
        for effect in command.decide({key: self.rows.get(key, Gone(key, 0)) for key in command.keys}):
            row = effect.row
            if isinstance(row, Product) and effect.change is not commands.Change.UNCHANGED:
                created = _BEGAN if effect.change is commands.Change.CREATED else row.created_at
                row = replace(row, created_at=created, updated_at=_BEGAN + timedelta(microseconds=row.version))
            self.rows[row.id] = row
            self.cached.add(row.id)
            done = replace(effect, row=row, recorded_at=_BEGAN + timedelta(seconds=len(self.writes)))
            self.ledger += done.movements()
            written.append(done)
        return written


def _ledger_page(
    found: Sequence[Movement],
    limit: int,
    after: LedgerPosition | None,
    order: Callable[[Movement | LedgerPosition], tuple[Any, ...]],
) -> LedgerPage:
    newest = sorted(found, key=order, reverse=True)
    rest = [movement for movement in newest if after is None or order(movement) < order(after)]
    if len(rest) <= limit:
        return LedgerPage(rest, None)
    last = rest[limit - 1]
    return LedgerPage(rest[:limit], LedgerPosition(last.product_id, last.version, last.line, last.created_at))


class Answering:
    """A database that answers a ping, or fails as it is told."""

    def __init__(self) -> None:
        self.fault: Exception | None = None

    async def ping(self) -> None:
        if self.fault is not None:
            raise self.fault


class Connected:
    """A store that is up, or not."""

    def __init__(self) -> None:
        self.up = True
        self.failures = 0
