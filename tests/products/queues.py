"""A write queue on transactions under the test's control."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.cache.write_through import Acknowledgement
from app.products.commands import UNSTAMPED, Adjust, Command, set_stock
from app.products.decision import Done, Postponed
from app.products.idempotency import WriteRequest
from app.products.product import Line, Reason
from app.products.reservation import HeldLine, Reservation, Status
from app.products.reservation_commands import Reserve
from app.products.ticket import Outcome, Ticket
from app.products.transaction import Patience
from app.products.transactions import RowsHeld
from app.products.write_queue import WriteQueue
from tests.harness.script import PATIENCE_S, Gate

Batch = tuple[str, ...]


@dataclass(slots=True)
class Transactions:
    """Postpones what needs a held product, or fails to get it; records what was sent. A batch may have a gate, or an error."""

    held: set[str] = field(default_factory=set)
    sent: list[tuple[Batch, Patience | None]] = field(default_factory=list)
    gates: dict[Batch, Gate] = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict)
    under_way: int = 0
    most: int = 0

    @property
    def main(self) -> list[Batch]:
        return [names for names, patience in self.sent if patience is None]

    @property
    def apart(self) -> list[Batch]:
        return [names for names, patience in self.sent if patience is not None]

    async def send(self, batch: Sequence[WriteRequest], patience: Patience | None) -> Sequence[Outcome]:
        names = tuple(",".join(request.command.keys) for request in batch)
        self.sent.append((names, patience))
        self.under_way += patience is not None
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(0)
            if gate := self.gates.get(names):
                await gate.enter()
            for name in names:
                if name in self.errors:
                    raise self.errors[name]
            if patience and self.held.intersection(patience.ids):
                await asyncio.sleep(0.001)
                raise RowsHeld("held")
            return [(self._decide(request), Acknowledgement(proven=True, committed_at=0.0)) for request in batch]
        finally:
            self.under_way -= patience is not None

    def _decide(self, request: WriteRequest) -> Done | Postponed:
        if held := sorted(self.held.intersection(request.command.keys)):
            return Postponed(held)
        if isinstance(command := request.command, Reserve):
            lines = [HeldLine(key, 1) for key in command.keys]
            return Done((), Reservation(command.id, None, Status.HELD, UNSTAMPED, 1, UNSTAMPED, UNSTAMPED, lines))
        return Done(())


def queue_of(
    transactions: Transactions,
    *,
    mains: int = 1,
    places: int = 2,
    queue_limit: int = 1_000,
    many: int = 1,
    batch_weight: int = 10,
) -> WriteQueue:
    return WriteQueue(
        transactions.send,
        batch_weight=batch_weight,
        queue_limit=queue_limit,
        main_places=mains,
        places=places,
        many=many,
    )


def ticket_for(*products: str, within_s: float = PATIENCE_S) -> Ticket:
    command = Adjust([Line(p, 1) for p in products], Reason.RECEIPT) if products[1:] else set_stock(products[0], 1)
    return Ticket(WriteRequest(command), asyncio.get_running_loop().time() + within_s)


def submit(queue: WriteQueue, *products: str) -> "asyncio.Task[Outcome]":
    return asyncio.create_task(queue.submit(ticket_for(*products)))


def send(queue: WriteQueue, command: Command) -> "asyncio.Task[Outcome]":
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    return asyncio.create_task(queue.submit(Ticket(WriteRequest(command), deadline)))


async def until(transactions: Transactions, attempts: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(transactions.apart) < attempts:
            await asyncio.sleep(0)
