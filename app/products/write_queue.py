"""The queue in which writes wait for a transaction.

Waiting writes share the next *main* transaction, even for different products. Their rows are locked together, and they are
committed and published together. ``MainPlaces`` says how many such transactions there are at a time.

A main transaction waits for no product's row. A request for a product whose row somebody else holds moves to that product's own
queue. Later requests for the product join it there until that queue is empty. The rest of the batch is carried out. A request
about a long reservation for which the batch has no room moves, too, and has a transaction of its own.

In its own queue, a product has one transaction at a time, which carries out all its waiting requests. This *attempt* waits
briefly for the row. If it does not get the row, the product becomes *stuck*. Stuck products have at most half of the concurrent
attempts, and their attempts wait for a shorter time. Therefore many held rows do not delay products whose rows are only
contended.

If a batch fails as a whole, each of its requests is carried out again in a transaction of its own, so that only the request
that caused the error fails.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from app.cache.errors import Overloaded
from app.postgres.errors import DatabaseFailed, DatabaseOverloaded, TransactionConflict
from app.products.decision import Decision, Done, Postponed
from app.products.idempotency import WriteRequest
from app.products.main_places import MANY, YIELDS, MainPlaces
from app.products.recent_reservations import RecentReservations
from app.products.ticket import Deadlines, Outcome, Ticket, weight_of
from app.products.transaction import Patience
from app.products.transactions import RowsHeld

Send = Callable[[Sequence[WriteRequest], Patience | None], Awaitable[Sequence[Outcome]]]

WAIT_MS = 100
"""How long the first attempt for a product waits for its row."""

LEAST_TIME_LEFT_S = 0.25
"""Time that a request must have left for another attempt, so that its deadline does not pass within a transaction."""

STUCK_WAIT_MS = 20
"""How long an attempt for a stuck product waits for its row."""

_BATCH_FAILURES = (TransactionConflict, DatabaseFailed, DatabaseOverloaded)
"""Errors after which nothing of a batch was changed. A request of the batch may succeed by itself."""


@dataclass(eq=False, slots=True)
class _Product:
    """A product that has a queue of its own."""

    waiting: deque[Ticket] = field(default_factory=deque)
    stuck: bool = False


class WriteQueue:
    """The write queue of one process.

    Args:
        send: runs one transaction for a batch; it raises the errors of ``ProductTransactions.commit``.
        batch_weight: most weight in one transaction.
        queue_limit: most requests that wait for the main transaction, and most that wait in all products' queues together.
            One product's queue holds a tenth of that. Beyond these limits ``Overloaded`` is raised.
        main_places: most concurrent main transactions.
        places: most concurrent transactions for separate queues. The main transactions do not count.
        many: as for ``MainPlaces``.
    """

    def __init__(
        self,
        send: Send,
        *,
        batch_weight: int,
        queue_limit: int,
        main_places: int,
        places: int,
        many: int = MANY,
    ) -> None:
        self._send = send
        self._batch_weight = batch_weight
        self._queue_limit = queue_limit
        self._product_limit = max(1, queue_limit // 10)
        self._places = places
        self._stuck_places = max(1, places // 2)
        self._mains = MainPlaces(
            self._send_main,
            places=main_places,
            many=many,
            batch_weight=batch_weight,
            queue_limit=queue_limit,
        )
        self._reservations = RecentReservations()
        self._deadlines = Deadlines()
        self._queues: dict[str, _Product] = {}
        self._fresh: deque[str] = deque()
        self._stuck: deque[str] = deque()
        self._waiting_in_queues = 0
        self._attempts: set[asyncio.Task[None]] = set()
        self._stuck_attempts = 0
        self._stuck_first = False

    @property
    def waiting(self) -> int:
        """Number of requests that no transaction has taken yet."""
        return self._mains.waiting + self._waiting_in_queues

    @property
    def oldest(self) -> Ticket | None:
        """The request that has waited longest for a main transaction, or ``None`` if none waits."""
        return self._mains.oldest

    async def submit(self, ticket: Ticket) -> Outcome:
        """Carry out a request. The result is ``Postponed`` only if another request with the same key is under way.

        Raises:
            Overloaded: too many requests wait.
            TimeoutError: the deadline of the ticket passed. ``under_way`` tells whether a transaction may carry it out.
            DatabaseError, OutcomeUnknown: from its transaction.
        """
        self._deadlines.add(ticket)
        try:
            outcome = None if self._joins_queue(ticket) else await self._submit_main(ticket)
            if outcome is None and ticket.future is not None:
                outcome = await ticket.future
        except asyncio.CancelledError:
            if ticket.future is not None:
                ticket.future.cancel()
            raise
        finally:
            self._deadlines.remove(ticket)
        if outcome is None:
            raise Overloaded("the request was neither carried out nor queued")
        return outcome

    async def aclose(self) -> None:
        """Carry out the accepted requests whose callers still wait."""
        await self._mains.aclose()
        while self._attempts:
            await asyncio.wait(self._attempts)

    # ------------------------------------------------------------------ main

    async def _submit_main(self, ticket: Ticket) -> Outcome | None:
        """Have a main transaction carry a request out; return ``None`` if the request moved to a product's queue."""
        keys, known = self._reservations.products_of(ticket.request.command)
        return await self._mains.submit(ticket, keys, known=known)

    async def _send_main(self, batch: Sequence[Ticket]) -> Sequence[Outcome | Exception | None]:
        """Run the main transaction; return ``None`` for a request that moved to a product's queue."""
        for ticket in batch:
            ticket.under_way = True
        try:
            outcomes = await self._send([ticket.request for ticket in batch], None)
        except _BATCH_FAILURES as error:
            if len(batch) == 1 and not isinstance(error, TransactionConflict):
                raise
            for ticket in batch:
                ticket.under_way = False
                ticket.alone = not isinstance(error, RowsHeld)
            return [self._move(ticket) for ticket in batch]
        return [self._after_main(ticket, outcome) for ticket, outcome in zip(batch, outcomes, strict=True)]

    def _after_main(self, ticket: Ticket, outcome: Outcome) -> Outcome | Overloaded | None:
        decision, _ = outcome
        self._note(decision)
        if not isinstance(decision, Postponed):
            return outcome
        ticket.under_way = False
        if not decision.held and not decision.alone:
            return outcome
        ticket.held, ticket.alone = decision.held, decision.alone
        return self._move(ticket)

    def _note(self, decision: Decision) -> None:
        if isinstance(decision, Done) and decision.reservation is not None:
            self._reservations.remember(decision.reservation)

    def _move(self, ticket: Ticket) -> Overloaded | None:
        if ticket.awaited:
            try:
                self._enqueue(ticket)
            except Overloaded as error:
                return error
        return None

    # ------------------------------------------------------ products' queues

    def _joins_queue(self, ticket: Ticket) -> bool:
        """Put a request into the queue of one of its products, if any has one; return whether there was one."""
        if self._queues:
            for key in ticket.request.command.keys:
                if key in self._queues:
                    ticket.held = (key,)
                    self._enqueue(ticket)
                    return True
        return False

    def _enqueue(self, ticket: Ticket) -> None:
        name = _name(ticket)
        product = self._queues.get(name)
        if self._waiting_in_queues >= self._queue_limit or (product and len(product.waiting) >= self._product_limit):
            raise Overloaded(f"too many requests wait for product {name}, or for others whose rows are held")
        ticket.future = asyncio.get_running_loop().create_future()
        self._line_up(ticket)
        self._begin_attempts()

    def _line_up(self, ticket: Ticket, *, first: bool = False) -> None:
        name = _name(ticket)
        product = self._queues.get(name)
        if product is None:
            product = self._queues[name] = _Product()
            self._fresh.append(name)
        if first:
            product.waiting.appendleft(ticket)
        else:
            product.waiting.append(ticket)
        self._waiting_in_queues += 1

    def _begin_attempts(self) -> None:
        while len(self._attempts) < self._places:
            may_be_stuck = bool(self._stuck) and self._stuck_attempts < self._stuck_places
            if may_be_stuck and (self._stuck_first or not self._fresh):
                name = self._stuck.popleft()
            elif self._fresh:
                name = self._fresh.popleft()
            else:
                return
            self._stuck_first = not self._queues[name].stuck
            self._stuck_attempts += self._queues[name].stuck
            task = asyncio.create_task(self._attempt(name, self._queues[name]))
            self._attempts.add(task)
            task.add_done_callback(self._end_attempt)

    def _end_attempt(self, task: "asyncio.Task[None]") -> None:
        self._attempts.discard(task)
        self._begin_attempts()

    async def _attempt(self, name: str, product: _Product) -> None:
        was_stuck = product.stuck
        batch = self._take(product)
        try:
            if batch:
                patience = Patience(STUCK_WAIT_MS if was_stuck else WAIT_MS, batch[0].held, doubtful=was_stuck)
                product.stuck = not await self._serve(batch, patience)
            if len(batch) > 1 and not product.stuck:
                for _ in range(YIELDS):
                    await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001 - pass any error to the waiting callers
            for ticket in batch:
                ticket.fail(error)
        finally:
            self._stuck_attempts -= was_stuck
            if product.waiting:
                (self._stuck if product.stuck else self._fresh).append(name)
            else:
                del self._queues[name]

    def _take(self, product: _Product) -> list[Ticket]:
        """Take the next batch: all requests that wait for this row only, or one that needs several rows or must be alone."""
        batch: list[Ticket] = []
        weight = 0
        latest = asyncio.get_running_loop().time() + LEAST_TIME_LEFT_S
        while product.waiting:
            ticket = product.waiting[0]
            if ticket.deadline < latest:
                ticket.fail(Overloaded("the request's deadline is near, and others still hold its rows"))
            elif ticket.awaited:
                weight += weight_of(ticket)
                if batch and not (_shares(batch[0]) and _shares(ticket) and weight <= self._batch_weight):
                    break
                batch.append(ticket)
            product.waiting.popleft()
            self._waiting_in_queues -= 1
        return batch

    async def _serve(self, batch: Sequence[Ticket], patience: Patience) -> bool:
        """Run one transaction of a product's queue; return whether it got its row locks."""
        for ticket in batch:
            ticket.under_way = True
        try:
            outcomes = await self._send([ticket.request for ticket in batch], patience)
        except _BATCH_FAILURES as error:
            for ticket in batch:
                ticket.under_way = False
            if len(batch) == 1 and not isinstance(error, TransactionConflict):
                raise
            self._line_up_again(batch, error)
            return False
        for ticket, outcome in zip(batch, outcomes, strict=True):
            decision, _ = outcome
            self._note(decision)
            if isinstance(decision, Postponed):
                ticket.under_way = False
                if decision.held or decision.alone:
                    ticket.held, ticket.alone = decision.held, ticket.alone or decision.alone
                    self._line_up(ticket)
                    continue
            if ticket.awaited and ticket.future is not None:
                ticket.future.set_result(outcome)
        return True

    def _line_up_again(self, batch: Sequence[Ticket], error: Exception) -> None:
        if isinstance(error, RowsHeld):
            # Wait only for the last row; waiting for all would hold the first ones locked meanwhile.
            for ticket in reversed(batch):
                ticket.held = ticket.held[-1:]
                self._line_up(ticket, first=True)
            return
        for ticket in batch:
            ticket.alone = True
            self._line_up(ticket)


def _name(ticket: Ticket) -> str:
    """Return the product whose queue a request joins: the one whose row is held, otherwise its first one."""
    keys = ticket.held or ticket.request.command.keys
    if keys:
        return keys[0]
    key = ticket.request.origin.idempotency_key
    return key.key if key else ""


def _shares(ticket: Ticket) -> bool:
    return not ticket.alone and len(ticket.held) <= 1
