"""The use cases: what a caller can ask of the catalogue. Endpoints call this; it calls the cache and PostgreSQL."""

import asyncio
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from app.cache.errors import NotSettled
from app.cache.joined import Joined
from app.cache.ports import State, Value
from app.cache.write_through import Acknowledgement, Read, WriteThrough
from app.postgres.errors import CommitUnknown, DatabaseFailed, DatabaseOverloaded
from app.products import commands
from app.products.commands import Change, Command, Effect
from app.products.errors import OutcomeUnknown, Refused
from app.products.payload import product_payload
from app.products.product import ALWAYS, Draft, Patch, Position, Precondition
from app.products.source import ProductSource
from app.products.transactions import ProductTransactions

Written = Effect
"""A write's answer for one product: the row as the request left it, and what was done to it."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the list: each product as JSON bytes, and where it ended (``None`` when nothing follows)."""

    items: Sequence[bytes]
    next: Position | None


@dataclass(frozen=True, slots=True)
class WriteLimits:
    """Bounds of the write path; the settings of the same names."""

    write_lanes: int = 2
    write_batch: int = 200
    queue_limit: int = 10_000
    request_timeout_ms: int = 15_000


class Products:
    """The catalogue.

    Writes that wait while a transaction is under way share the next one of their lane: one lock, one commit, one publish for
    many, each with its own decision and answer. A lone write is not delayed. Every write is published or settled before it
    is answered, also one that changed nothing: an earlier try of it may have died between its commit and its publish (R10).

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
        self._lanes: list[Joined[Command, tuple[Sequence[Written], Acknowledgement]]] = [
            Joined(self._transact, batch_weight=limits.write_batch, weigh=_weight, queue_limit=limits.queue_limit)
            for _ in range(limits.write_lanes)
        ]

    async def get(self, product_id: str, *, refresh: bool = False, stale_s: int = 0) -> Read:
        """Read one product through the cache. Raises ``SourceUnavailable``, ``Overloaded``."""
        return await self._cache.read(product_id, refresh=refresh, stale_s=stale_s)

    async def peek(self, product_id: str) -> Value | None:
        """Give a product that the cache holds and proves, or ``None``: then ``get`` has to find the answer."""
        return await self._cache.peek(product_id)

    async def get_many(self, ids: Sequence[str], *, refresh: bool = False, stale_s: int = 0) -> list[Read]:
        """Read several different products in one round trip, in the order asked. Raises as ``get``."""
        return await self._cache.read_many(ids, refresh=refresh, stale_s=stale_s)

    async def list_page(self, *, limit: int, after: Position | None = None, prefix: str = "") -> Page:
        """List products by id, or those whose name begins with ``prefix``, case ignored, by name. Raises as ``get``."""
        found = await self._source.page(limit=limit + 1, after=after, prefix=prefix)
        shown = found[:limit]
        return Page([product_payload(product) for product, _ in shown], shown[-1][1] if len(found) > limit else None)

    async def create(self, draft: Draft) -> Written:
        """Create a product. Raises ``AlreadyExists``."""
        return (await self._write(commands.Create(draft)))[0]

    async def put(self, draft: Draft, condition: Precondition = ALWAYS) -> Written:
        """Create a product or replace it whole. Raises ``PreconditionRequired``, ``PreconditionFailed``."""
        return (await self._write(commands.Put(draft, condition)))[0]

    async def patch(self, product_id: str, patch: Patch, condition: Precondition = ALWAYS) -> Written:
        """Change some fields. Raises ``ProductsMissing``, ``PreconditionFailed``."""
        return (await self._write(commands.merge_patch(product_id, patch, condition)))[0]

    async def delete(self, product_id: str, condition: Precondition = ALWAYS) -> Written:
        """Delete a product, whatever its stock. Raises ``ProductsMissing``, ``PreconditionFailed``."""
        return (await self._write(commands.delete(product_id, condition)))[0]

    async def count(self, product_id: str, stock: int, condition: Precondition = ALWAYS) -> Written:
        """Set the stock to what was counted. Raises ``ProductsMissing``, ``PreconditionFailed``."""
        return (await self._write(commands.count(product_id, stock, condition)))[0]

    async def upsert(self, drafts: Sequence[Draft]) -> Sequence[Written]:
        """Create or replace products of different ids in one transaction; answers in the order given."""
        return await self._write(commands.Upsert(drafts)) if drafts else ()

    async def drop(self, product_id: str) -> None:
        """Drop one cache entry. Raises ``StoreUnavailable``."""
        await self._cache.drop(product_id)

    async def aclose(self) -> None:
        """Finish the writes that were accepted."""
        for lane in self._lanes:
            await lane.aclose()

    async def _write(self, command: Command) -> Sequence[Written]:
        # A product's writes share a lane: two transactions would only wait for each other's lock.
        lane = self._lanes[zlib.crc32(command.keys[0].encode()) % len(self._lanes)]
        try:
            async with asyncio.timeout(self._timeout_s):
                written, acknowledgement = await lane.submit(command)
                await self._cache.settle(acknowledgement)
                return written
        except TimeoutError as error:
            raise OutcomeUnknown("the write was not finished before its deadline") from error
        except NotSettled as error:
            raise OutcomeUnknown(str(error)) from error

    async def _transact(self, batch: Sequence[Command]) -> Sequence[tuple[Sequence[Written], Acknowledgement] | Exception]:
        try:
            return await self._commit(batch)
        except (DatabaseFailed, DatabaseOverloaded) as error:
            if len(batch) == 1:
                return [error]
            # Something in the batch cannot be done: one by one, so that only the guilty fail.
            return [result for command in batch for result in await self._transact([command])]
        except CommitUnknown as error:
            unknown = OutcomeUnknown(str(error))
            unknown.__cause__ = error
            return [unknown] * len(batch)

    async def _commit(self, batch: Sequence[Command]) -> Sequence[tuple[Sequence[Written], Acknowledgement] | Exception]:
        results: Sequence[Sequence[Written] | Refused] = ()

        async def transact() -> Sequence[State]:
            nonlocal results
            committed = await self._transactions.commit(batch)
            results = committed.results
            return committed.states

        keys = list(dict.fromkeys(key for command in batch for key in command.keys))
        acknowledgement = await self._cache.write(keys, transact)
        return [result if isinstance(result, Refused) else (result, acknowledgement) for result in results]


def _weight(command: Command) -> int:
    return len(command.keys)


__all__ = ["Change", "Page", "Products", "WriteLimits", "Written"]
