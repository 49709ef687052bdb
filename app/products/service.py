"""The use cases: what a caller can ask of the catalogue. Endpoints call this; it calls the cache and PostgreSQL."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.cache.errors import NotSettled, Overloaded
from app.cache.joined import Joined
from app.cache.ports import State, Value
from app.cache.write_through import Acknowledgement, Read, WriteThrough
from app.postgres.errors import CommitUnknown, DatabaseFailed, DatabaseOverloaded
from app.products import commands
from app.products.commands import Change, Command, Effect
from app.products.errors import OutcomeUnknown, ProductsMissing, Refused, RequestInProgress
from app.products.idempotency import Asked, Busy, Once, Replayed
from app.products.lanes import Lanes
from app.products.payload import product_payload
from app.products.product import ALWAYS, Draft, LedgerPosition, Line, Movement, Patch, Position, Precondition, Reason
from app.products.source import ProductSource
from app.products.transactions import ProductTransactions, Result

Written = Effect
"""A write's answer for one product: the row as the request left it, what was done to it, and what the ledger took."""

_Acknowledged = tuple[Sequence[Written] | Replayed, Acknowledgement]

BUSY_PAUSE_S = 0.02
"""Mean pause before asking again whether another request with the same idempotency key is finished."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the list: each product as JSON bytes, and where it ended (``None`` when nothing follows)."""

    items: Sequence[bytes]
    next: Position | None


@dataclass(frozen=True, slots=True)
class LedgerPage:
    """A page of the ledger, newest first, and where it ended (``None`` when nothing follows)."""

    items: Sequence[Movement]
    next: LedgerPosition | None


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks, for the ledger, and whether once."""

    once: Once | None = None
    request_id: str | None = None
    actor: str | None = None


ANYHOW = Asking()


@dataclass(frozen=True, slots=True)
class WriteLimits:
    """Bounds of the write path; ``write_limits`` in the composition root makes them of the settings."""

    write_lanes: int = 4
    write_lane_patience_ms: int = 50
    write_batch: int = 200
    queue_limit: int = 10_000
    request_timeout_ms: int = 15_000
    idempotency_wait_ms: int = 5_000
    singles: int = 4
    """Most transactions under way for requests of failed batches: done one at a time, each product's in its own lane."""


class _Apart(Exception):
    """The batch failed as a whole; this request has to be done by itself."""


class Products:
    """The catalogue.

    Writes that wait while a transaction is under way share the next one of their lane: one lock, one commit, one publish for
    many, each with its own decision and answer. A lone write is not delayed. Every write is published or settled before it
    is answered, also one that changed nothing: an earlier try of it may have died between its commit and its publish (R10).

    A write asked ``once`` raises ``Replayed`` with the kept answer when it was done before, ``KeyReused`` when its key belongs
    to another request, and ``RequestInProgress`` when that one does not finish.

    All writes may raise ``Refused`` (by class), ``OutcomeUnknown``, ``NotSettled``, ``Overloaded`` or a ``DatabaseError``.
    """

    def __init__(
        self,
        cache: WriteThrough,
        source: ProductSource,
        transactions: ProductTransactions,
        limits: WriteLimits | None = None,
    ) -> None:
        limits = limits or WriteLimits()
        self._cache = cache
        self._source = source
        self._transactions = transactions
        self._timeout_s = limits.request_timeout_ms / 1000
        self._busy_s = limits.idempotency_wait_ms / 1000
        self._lanes: Lanes[_Acknowledged] = Lanes(
            self._transact,
            lanes=limits.write_lanes,
            batch_weight=limits.write_batch,
            queue_limit=limits.queue_limit,
            patience_s=limits.write_lane_patience_ms / 1000,
        )
        self._singles: dict[str, Joined[Asked, _Acknowledged]] = {}
        self._single_turn = asyncio.Semaphore(limits.singles)
        self._queue_limit = limits.queue_limit

    async def get(self, product_id: str, *, refresh: bool = False, stale_s: int = 0) -> Read:
        """Read one product through the cache. Raises ``SourceUnavailable``, ``Overloaded``."""
        return await self._cache.read(product_id, refresh=refresh, stale_s=stale_s)

    def peek(self, product_id: str, then: Callable[[Value | None], None]) -> None:
        """Give ``then`` a product that the cache holds and proves, or ``None``: then ``get`` has to find the answer."""
        self._cache.peek(product_id, then)

    async def get_many(self, ids: Sequence[str], *, refresh: bool = False, stale_s: int = 0) -> list[Read]:
        """Read several different products in one round trip, in the order asked. Raises as ``get``."""
        return await self._cache.read_many(ids, refresh=refresh, stale_s=stale_s)

    async def list_page(
        self, *, limit: int, after: Position | None = None, prefix: str = "", below_reorder_point: bool = False
    ) -> Page:
        """List products by id, or those whose name begins with ``prefix``, case ignored, by name. Raises as ``get``.

        ``below_reorder_point`` keeps those with stock < reorder point, always by id.
        """
        found = await self._source.page(limit=limit + 1, after=after, prefix=prefix, below_reorder_point=below_reorder_point)
        shown = found[:limit]
        return Page([product_payload(product) for product, _ in shown], shown[-1][1] if len(found) > limit else None)

    async def create(self, draft: Draft, asking: Asking = ANYHOW) -> Written:
        """Create a product. Raises ``AlreadyExists``."""
        return (await self._write(commands.Create(draft), asking))[0]

    async def put(self, draft: Draft, condition: Precondition = ALWAYS, asking: Asking = ANYHOW) -> Written:
        """Create a product or replace it whole. Raises ``PreconditionRequired``, ``PreconditionFailed``."""
        return (await self._write(commands.Put(draft, condition), asking))[0]

    async def patch(self, product_id: str, patch: Patch, condition: Precondition = ALWAYS, asking: Asking = ANYHOW) -> Written:
        """Change some fields. Raises ``ProductsMissing``, ``PreconditionFailed``."""
        return (await self._write(commands.merge_patch(product_id, patch, condition), asking))[0]

    async def delete(self, product_id: str, condition: Precondition = ALWAYS, asking: Asking = ANYHOW) -> Written:
        """Delete a product, whatever its stock. Raises ``ProductsMissing``, ``PreconditionFailed``."""
        return (await self._write(commands.delete(product_id, condition), asking))[0]

    async def count(
        self,
        product_id: str,
        stock: int,
        condition: Precondition = ALWAYS,
        reference: str | None = None,
        asking: Asking = ANYHOW,
    ) -> Written:
        """Set the stock to what was counted. Raises ``ProductsMissing``, ``PreconditionFailed``."""
        return (await self._write(commands.count(product_id, stock, condition, reference), asking))[0]

    async def adjust(
        self,
        lines: Sequence[Line],
        reason: Reason,
        reference: str | None = None,
        condition: Precondition = ALWAYS,
        asking: Asking = ANYHOW,
    ) -> Sequence[Written]:
        """Add to and take from stocks, all lines or none; an answer for each product, in the order first named.

        Raises ``ProductsMissing``, ``PreconditionFailed``, ``InsufficientStock``, ``StockLimit``.
        """
        return await self._write(commands.Adjust(lines, reason, reference, condition), asking)

    async def movements(self, product_id: str, *, limit: int, after: LedgerPosition | None = None) -> LedgerPage:
        """Read one product's ledger, newest first, of a deleted product too.

        Raises ``ProductsMissing`` for an id without any movement; else as ``get``.
        """
        found = await self._source.movements(product_id, limit=limit + 1, after=after)
        if not found and not await self._source.has_ledger(product_id):
            raise ProductsMissing((product_id,))
        return _ledger_page(found, limit)

    async def movements_by_reference(self, reference: str, *, limit: int, after: LedgerPosition | None = None) -> LedgerPage:
        """Read what happened under one reference, newest first. Raises as ``get``."""
        return _ledger_page(await self._source.movements_by_reference(reference, limit=limit + 1, after=after), limit)

    async def upsert(self, drafts: Sequence[Draft], asking: Asking = ANYHOW) -> Sequence[Written]:
        """Create or replace products of different ids in one transaction; answers in the order given.

        Without any product there is still a key to be looked at, which may belong to another request.
        """
        return await self._write(commands.Upsert(drafts), asking) if drafts or asking.once else ()

    async def drop(self, product_id: str) -> None:
        """Drop one cache entry. Raises ``StoreUnavailable``."""
        await self._cache.drop(product_id)

    async def aclose(self) -> None:
        """Finish the writes that were accepted."""
        await self._lanes.aclose()
        for lane in list(self._singles.values()):
            await lane.aclose()

    async def _write(self, command: Command, asking: Asking) -> Sequence[Written]:
        asked = Asked(command, asking.once, asking.request_id, asking.actor)
        try:
            async with asyncio.timeout(self._timeout_s):
                result, acknowledgement = await self._in_turn(asked)
                await self._cache.settle(acknowledgement)
        except TimeoutError as error:
            raise OutcomeUnknown("the write was not finished before its deadline") from error
        except NotSettled as error:
            raise OutcomeUnknown(str(error)) from error
        if isinstance(result, Replayed):
            raise result
        return result

    async def _in_turn(self, asked: Asked) -> _Acknowledged:
        """Submit until no other request with the same idempotency key is under way."""
        lane: Lanes[_Acknowledged] | Joined[Asked, _Acknowledged] = self._lanes
        clock = asyncio.get_running_loop().time
        patience = clock() + self._busy_s
        while True:
            try:
                return await lane.submit(asked)
            except _Apart:
                lane = self._single(asked)
                continue
            except Busy as busy:
                if clock() > patience:
                    raise RequestInProgress("another request with this idempotency key is not finished") from busy
            await asyncio.sleep(BUSY_PAUSE_S)

    def _single(self, asked: Asked) -> Joined[Asked, _Acknowledged]:
        """Give the lane of a request's first product: one whose row is held holds up nobody else there."""
        name = asked.command.keys[0] if asked.command.keys else asked.idempotency_key or ""
        if name not in self._singles:
            self._singles = {other: lane for other, lane in self._singles.items() if not lane.idle}
            if len(self._singles) >= self._queue_limit:
                raise Overloaded(f"{self._queue_limit} products are waiting already")
            self._singles[name] = Joined(self._transact_single, batch_weight=1, queue_limit=self._queue_limit)
        return self._singles[name]

    async def _transact_single(self, batch: Sequence[Asked]) -> Sequence[_Acknowledged | Exception]:
        async with self._single_turn:
            try:
                return await self._commit(batch, retry=True)
            except (DatabaseFailed, DatabaseOverloaded) as error:
                return [error] * len(batch)

    async def _transact(self, batch: Sequence[Asked]) -> Sequence[_Acknowledged | Exception]:
        try:
            return await self._commit(batch, retry=False)
        except (DatabaseFailed, DatabaseOverloaded):
            # Something in the batch cannot be done, or not now: one by one, so that only the guilty fail; by themselves and
            # elsewhere, a lone one too, so that the lane goes on and nothing is done for callers who have left.
            return [_Apart()] * len(batch)

    async def _commit(self, batch: Sequence[Asked], *, retry: bool) -> Sequence[_Acknowledged | Exception]:
        results: Sequence[Result] = ()

        async def transact() -> Sequence[State]:
            nonlocal results
            committed = await self._transactions.commit(batch, retry=retry)
            results = committed.results
            return committed.states

        keys = list(dict.fromkeys(key for asked in batch for key in asked.command.keys))
        try:
            acknowledgement = await self._cache.write(keys, transact)
        except CommitUnknown as error:
            unknown = OutcomeUnknown(str(error))
            unknown.__cause__ = error
            return [unknown] * len(batch)
        return [result if isinstance(result, Refused | Busy) else (result, acknowledgement) for result in results]


def _ledger_page(found: Sequence[Movement], limit: int) -> LedgerPage:
    shown = found[:limit]
    if len(found) <= limit:
        return LedgerPage(shown, None)
    last = shown[-1]
    return LedgerPage(shown, LedgerPosition(last.product_id, last.version, last.line, last.created_at))


__all__ = ["Asking", "Change", "LedgerPage", "Page", "Products", "WriteLimits", "Written"]
