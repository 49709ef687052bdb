"""The service that the endpoints call. It calls the cache and PostgreSQL."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.cache.errors import NotSettled, Overloaded
from app.cache.ports import Reading
from app.cache.tracing import UNTRACED, Place, Tracer
from app.cache.write_through import Peeked, Read, WriteThrough
from app.postgres.errors import CommitUnknown
from app.products.commands import Command, Effect
from app.products.decision import Denied, Done, Postponed, Repeated
from app.products.errors import OutcomeUnknown, ProductsMissing, RequestInProgress
from app.products.idempotency import NO_ORIGIN, IdempotencyKey, Origin, Replayed, WriteRequest
from app.products.payload import product_payload
from app.products.product import LedgerPosition, Movement, Position
from app.products.reservation import HeldUnits, Reservation, ReservationPosition, Status
from app.products.reservation_commands import ReservationCommand, Tidy
from app.products.source import ProductSource
from app.products.ticket import Outcome, Ticket
from app.products.transaction import Committed, Patience
from app.products.transactions import ProductTransactions
from app.products.write_queue import WriteQueue

BUSY_PAUSE_S = 0.02
"""Pause between two checks whether another request with the same idempotency key has finished."""

TIDY_ORIGIN = Origin(idempotency_key=IdempotencyKey("\x1ftidier", "tidy", b"", lambda _: None))
"""Its key is locked during the transaction, so that one process at a time tidies. No client has that name."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the list: each product as JSON bytes, and where the page ended (``None`` if nothing follows)."""

    items: Sequence[bytes]
    next: Position | None


@dataclass(frozen=True, slots=True)
class LedgerPage:
    """A page of the ledger, newest first, and where the page ended (``None`` if nothing follows)."""

    items: Sequence[Movement]
    next: LedgerPosition | None


@dataclass(frozen=True, slots=True)
class ReservationPage:
    """A page of reservations, newest first, and where the page ended (``None`` if nothing follows)."""

    items: Sequence[Reservation]
    next: ReservationPosition | None


@dataclass(frozen=True, slots=True)
class WriteLimits:
    """Limits of the write path. ``write_limits`` in the composition root takes them from the settings."""

    write_batch: int
    queue_limit: int
    request_timeout_ms: int
    idempotency_wait_ms: int
    main_places: int
    """Most main transactions at once."""
    product_places: int
    """Most transactions at once for products whose rows somebody else holds."""


class Products:
    """The products of the database, as callers see and change them.

    Writes that wait while a transaction is under way share the next one, each with its own decision and answer
    (``WriteQueue``). A lone write is not delayed. Every write is published or settled before it is answered, even one that
    changed nothing, because an earlier try may have been lost between its commit and its publish (R10).
    """

    def __init__(
        self,
        cache: WriteThrough,
        source: ProductSource,
        transactions: ProductTransactions,
        limits: WriteLimits,
        tracer: Tracer = UNTRACED,
    ) -> None:
        self._tracer = tracer
        self._cache = cache
        self._source = source
        self._transactions = transactions
        self._timeout_s = limits.request_timeout_ms / 1000
        self._busy_s = limits.idempotency_wait_ms / 1000
        self._queue = WriteQueue(
            self._transact,
            batch_weight=limits.write_batch,
            queue_limit=limits.queue_limit,
            main_places=limits.main_places,
            places=limits.product_places,
        )

    async def get(self, product_id: str, *, refresh: bool = False, stale_s: int = 0, reading: Reading | None = None) -> Read:
        """Read one product through the cache. ``reading`` is the result of ``peek`` for this request, if there was one.

        Raises ``SourceUnavailable``, ``Overloaded``.
        """
        with self._tracer.step("products.get"):
            return await self._cache.read(product_id, refresh=refresh, stale_s=stale_s, reading=reading)

    def peek(self, product_id: str, then: Callable[[Peeked], None]) -> None:
        """Call ``then`` with the product if the cache has it and it is proven; otherwise with the reading for ``get``."""
        self._cache.peek(product_id, then)

    async def get_many(self, ids: Sequence[str], *, refresh: bool = False, stale_s: int = 0) -> list[Read]:
        """Read several different products in one round trip, in the order of ``ids``. Raises as ``get``."""
        with self._tracer.step("products.get_many"):
            return await self._cache.read_many(ids, refresh=refresh, stale_s=stale_s)

    async def list_page(
        self,
        *,
        limit: int,
        after: Position | None = None,
        prefix: str = "",
        below_reorder_point: bool = False,
        uncovered: bool = False,
    ) -> Page:
        """Return a page of the products by id, or by name if ``prefix`` is given. Raises as ``get``.

        ``prefix`` selects names that begin with it, ignoring case. ``below_reorder_point`` selects products whose stock is
        below their reorder point, always by id.
        """
        with self._tracer.step("page", Place.SOURCE):
            found = await self._source.page(
                limit=limit + 1,
                after=after,
                prefix=prefix,
                below_reorder_point=below_reorder_point,
                uncovered=uncovered,
            )
        shown = found[:limit]
        return Page([product_payload(product) for product, _ in shown], shown[-1][1] if len(found) > limit else None)

    async def movements(self, product_id: str, *, limit: int, after: LedgerPosition | None = None) -> LedgerPage:
        """Return a page of one product's ledger, newest first. The product may be deleted.

        Raises ``ProductsMissing`` for an id without any movement; otherwise as ``get``.
        """
        with self._tracer.step("movements", Place.SOURCE):
            found = await self._source.movements(product_id, limit=limit + 1, after=after)
            if not found and not await self._source.has_ledger(product_id):
                raise ProductsMissing((product_id,))
        return _ledger_page(found, limit)

    async def movements_by_reference(self, reference: str, *, limit: int, after: LedgerPosition | None = None) -> LedgerPage:
        """Return a page of the movements with one reference, newest first. Raises as ``get``."""
        with self._tracer.step("movements by reference", Place.SOURCE):
            return _ledger_page(await self._source.movements_by_reference(reference, limit=limit + 1, after=after), limit)

    async def reservation(self, reservation_id: str) -> Reservation:
        """Return a reservation, from PostgreSQL. Raises ``ReservationMissing``, ``NotEnabled``, and as ``get``."""
        return await self._source.reservations.get(reservation_id)

    async def reservations(
        self, owner: str, *, of_product: bool, status: Status | None, limit: int, after: ReservationPosition | None = None
    ) -> ReservationPage:
        """Return a page of reservations, newest first. Raises ``NotEnabled``, and as ``get``.

        ``owner`` is a reference, or a product of which they hold units.
        """
        source = self._source.reservations
        read = source.by_product if of_product else source.by_reference
        found = await read(owner, status=status, limit=limit + 1, after=after)
        shown = found[:limit]
        end = ReservationPosition(shown[-1].created_at, shown[-1].id) if len(found) > limit else None
        return ReservationPage(shown, end)

    async def held_units(self) -> HeldUnits:
        """Return how many units reservations hold. Raises as ``get``."""
        return await self._source.reservations.held()

    async def latest_movements(self, *, limit: int) -> Sequence[Movement]:
        """Return the newest movements of the 200 products that were changed last, newest first. Raises as ``get``."""
        return await self._source.latest_movements(limit=limit)

    async def write(self, command: Command, origin: Origin = NO_ORIGIN) -> Sequence[Effect]:
        """Carry out a command; return an effect for each of its products, in the order of ``command.keys``.

        Raises:
            Refused: by class; the request changed nothing.
            Replayed: the request was done before, under its idempotency key.
            OutcomeUnknown: the command was carried out as a whole, or not at all.
            Overloaded: nothing was changed. Also raised at the deadline if no transaction had begun to carry the command out.
            DatabaseError: nothing was changed.
        """
        if not command.keys and origin.idempotency_key is None:
            return ()
        return (await self._carry_out(command, origin)).effects

    async def reserve(self, command: ReservationCommand, origin: Origin = NO_ORIGIN) -> Reservation:
        """Carry out a command on a reservation; return the reservation after it. Raises as ``write``."""
        reservation = (await self._carry_out(command, origin)).reservation
        assert reservation is not None  # noqa: S101 - every such command is about one
        return reservation

    async def tidy(self, reservation_ids: Sequence[str]) -> bool:
        """Give back what these ended reservations still hold; return whether nobody else is doing that now.

        Raises as ``write``.
        """
        [(decision, acknowledgement)] = await self._transact([WriteRequest(Tidy(reservation_ids), TIDY_ORIGIN)], None)
        await self._cache.settle(acknowledgement)
        return isinstance(decision, Done)

    async def _carry_out(self, command: Command, origin: Origin) -> Done:
        """Carry out a command. Raises as ``write``."""
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        with self._tracer.step("products.write"):
            ticket = Ticket(WriteRequest(command, origin, self._tracer.unit()), deadline)
            try:
                outcome = await self._queue.submit(ticket)
                if isinstance(outcome[0], Postponed):
                    async with asyncio.timeout_at(deadline):
                        outcome = await self._submit_again(ticket, outcome)
                decision, acknowledgement = outcome
                if isinstance(decision, Postponed):
                    raise RequestInProgress("another request with this idempotency key is not finished")
                if not acknowledgement.proven and (not isinstance(decision, Denied) or decision.closed):
                    async with asyncio.timeout_at(deadline):
                        await self._cache.settle(acknowledgement)
            except TimeoutError as error:
                if ticket.under_way:
                    raise OutcomeUnknown("the write was not finished before its deadline") from error
                why = "others hold its rows, or wait before it"
                raise Overloaded(f"the write was not begun before its deadline: {why}") from error
            except NotSettled as error:
                raise OutcomeUnknown(str(error)) from error
            match decision:
                case Done():
                    return decision
                case Repeated(answer):
                    raise Replayed(answer)
                case Denied(refusal):
                    raise refusal

    @property
    def longest_wait_s(self) -> float:
        """How long the oldest write that no transaction has taken has waited. Writes for held rows do not count."""
        oldest = self._queue.oldest
        return 0.0 if oldest is None else asyncio.get_running_loop().time() - oldest.deadline + self._timeout_s

    async def drop(self, product_id: str) -> None:
        """Drop one cache entry. Raises ``StoreUnavailable``."""
        await self._cache.drop(product_id)

    async def aclose(self) -> None:
        """Finish the writes that were accepted."""
        await self._queue.aclose()

    async def _submit_again(self, ticket: Ticket, outcome: Outcome) -> Outcome:
        """Submit again, for a limited time, while another request with the same idempotency key is under way.

        Returns the last outcome, which is still ``Postponed`` if that takes longer.
        """
        clock = asyncio.get_running_loop().time
        patience = ticket.deadline - self._timeout_s + self._busy_s
        while isinstance(outcome[0], Postponed) and clock() <= patience:
            await asyncio.sleep(BUSY_PAUSE_S)
            outcome = await self._queue.submit(ticket)
        return outcome

    async def _transact(self, batch: Sequence[WriteRequest], patience: Patience | None) -> Sequence[Outcome]:
        keys = list(dict.fromkeys(key for request in batch for key in request.command.keys))
        units = [request.unit for request in batch if request.unit is not None]
        try:
            with self._tracer.joined("cache.write", units):
                committed, acknowledgement = await self._cache.write(keys, lambda: self._commit(batch, patience))
        except CommitUnknown as error:
            raise OutcomeUnknown(str(error)) from error
        return [(decision, acknowledgement) for decision in committed.decisions]

    async def _commit(self, batch: Sequence[WriteRequest], patience: Patience | None) -> Committed:
        with self._tracer.step("transaction", Place.SOURCE):
            return await self._transactions.commit(batch, patience)


def _ledger_page(found: Sequence[Movement], limit: int) -> LedgerPage:
    shown = found[:limit]
    if len(found) <= limit:
        return LedgerPage(shown, None)
    last = shown[-1]
    return LedgerPage(shown, LedgerPosition(last.product_id, last.version, last.line, last.created_at))
