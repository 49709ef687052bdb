"""The places in which main transactions run, and the choice of the place for a request.

There is one transaction at a time in a place. The second place is used only while the first has many requests: a few are
cheaper together. A request then goes to the place that has fewer. If earlier requests for its products are under way, it
goes to that of the first such product, because in the other one it would find the row locked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.cache.batcher import Batcher, Send
from app.cache.errors import Overloaded
from app.products.ticket import Outcome, Ticket, weight_of

MAIN_PLACES = 2
"""Main transactions at a time. docs/decisions/0004 has the reasons."""

MANY = 16
"""Requests in the first place at which the others are used."""

YIELDS = 5
"""Event-loop iterations between two batches, so that the next requests of the same clients share a batch.

docs/decisions/0004 has the reasons.
"""


@dataclass(eq=False, slots=True)
class _Place:
    """A place for one main transaction at a time, with the requests that wait for the next one in it."""

    batcher: Batcher[Ticket, Outcome | None]
    requests: int = 0
    """Number of requests that wait or are under way, and whose callers wait."""


@dataclass(eq=False, slots=True)
class _Use:
    """The requests for one product that are in a place, and whose callers wait."""

    place: _Place
    requests: int = 0


class MainPlaces:
    """The places of one process.

    Args:
        send: runs the transaction for a batch; the result of a request is ``None`` if it moved to a product's queue.
        places: number of places.
        many: requests in the first place at which the others are used.
        batch_weight: most weight in one transaction.
        queue_limit: most requests that wait, beyond which ``Overloaded`` is raised.
    """

    def __init__(
        self,
        send: Send[Ticket, Outcome | None],
        *,
        places: int,
        many: int,
        batch_weight: int,
        queue_limit: int,
    ) -> None:
        self._many = many
        self._queue_limit = queue_limit
        self._places = [
            _Place(Batcher(send, weight=weight_of, max_weight=batch_weight, queue_limit=queue_limit, yields=YIELDS))
            for _ in range(places)
        ]
        self._uses: dict[str, _Use] = {}
        """The products of the requests in all places."""

    @property
    def waiting(self) -> int:
        """Number of requests that no transaction has taken yet."""
        waiting = 0
        for place in self._places:
            waiting += place.batcher.waiting
        return waiting

    @property
    def oldest(self) -> Ticket | None:
        """The request that has waited longest, or ``None`` if none waits."""
        waiting = [ticket for place in self._places if (ticket := place.batcher.oldest) is not None]
        return min(waiting, key=lambda ticket: ticket.deadline, default=None)

    async def submit(self, ticket: Ticket, keys: Sequence[str], *, known: bool) -> Outcome | None:
        """Have a main transaction carry out a request about these products, and about others unless all are ``known``.

        Raises ``Overloaded`` if too many requests wait, and otherwise as ``send``.
        """
        if self.waiting >= self._queue_limit:
            raise Overloaded(f"{self._queue_limit} requests are waiting already")
        place = self._place_for(keys, known=known)
        place.requests += 1
        for key in keys:
            use = self._uses.get(key)
            if use is None:
                use = self._uses[key] = _Use(place)
            use.requests += 1
        try:
            ticket.future = place.batcher.submit(ticket)
            return await ticket.future
        finally:
            place.requests -= 1
            for key in keys:
                use = self._uses[key]
                use.requests -= 1
                if not use.requests:
                    del self._uses[key]

    async def aclose(self) -> None:
        """Carry out the requests whose callers still wait."""
        for place in self._places:
            await place.batcher.aclose()

    def _place_for(self, keys: Sequence[str], *, known: bool) -> _Place:
        for key in keys:
            if use := self._uses.get(key):
                return use.place
        if not known or self._places[0].requests < self._many:
            return self._places[0]
        return min(self._places, key=lambda place: place.requests)
