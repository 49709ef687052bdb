"""Requests on their way through the write queue, and the deadlines at which their callers stop waiting."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from app.cache.write_through import Acknowledgement
from app.products.decision import Decision
from app.products.idempotency import WriteRequest

Outcome = tuple[Decision, Acknowledgement]


@dataclass(eq=False, slots=True)
class Ticket:
    """One request on its way through the queue."""

    request: WriteRequest
    deadline: float
    """When the request must be answered, on the event loop's clock."""
    under_way: bool = False
    """Whether a transaction may carry it out, or has done so."""
    alone: bool = False
    """Whether it must not share a transaction, because one that it shared failed, or would take too long."""
    held: Sequence[str] = ()
    """The products whose rows somebody else held."""
    future: "asyncio.Future[Outcome | None] | None" = None
    """What its caller waits for now. Its result is ``None`` if the request has moved to a product's queue, and waits anew."""

    @property
    def awaited(self) -> bool:
        """Whether its caller still waits. Who has left, or was told of an error, has a future that is done."""
        return self.future is not None and not self.future.done()

    def fail(self, error: Exception) -> None:
        """Raise an error at the caller, if it still waits."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # marks it as retrieved, so that asyncio does not warn if the caller no longer waits


def weight_of(ticket: Ticket) -> int:
    """Return a request's share of what a transaction can carry out."""
    return max(1, ticket.request.command.weight)


class Deadlines:
    """Ends the waits of callers at the deadlines of their tickets, with ``TimeoutError``.

    Hardly any request reaches its deadline, so none has a timer of its own. All requests of a process have the same time, so
    the tickets come in the order of their deadlines, and one timer for the first of them is enough. A ticket that comes a
    second time is out of order, so its caller has to limit that wait.
    """

    def __init__(self) -> None:
        self._tickets: dict[Ticket, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, ticket: Ticket) -> None:
        """Watch the deadline of a ticket whose caller begins to wait."""
        self._tickets[ticket] = None
        if self._timer is None:
            self._set_timer(ticket.deadline)

    def remove(self, ticket: Ticket) -> None:
        """Forget a ticket whose caller no longer waits."""
        del self._tickets[ticket]

    def _set_timer(self, deadline: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(deadline, self._end_waits, deadline)

    def _end_waits(self, deadline: float) -> None:
        """End the waits whose deadlines have passed, and set the timer for the next one."""
        self._timer = None
        now = max(deadline, asyncio.get_running_loop().time())  # the timer may be early by the resolution of the clock
        for ticket in self._tickets:
            if ticket.deadline > now:
                self._set_timer(ticket.deadline)
                return
            ticket.fail(TimeoutError("the deadline of the request has passed"))
