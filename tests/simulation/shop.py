"""What a process of the simulation has to write products: the shipped service, its accepted writes and its applier."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from app.postgres.database import Database
from app.products.acceptance import Acceptance
from app.products.accepted import AcceptedStats, AcceptedWrite, Decided, WriteState
from app.products.accepted_service import AcceptedWrites
from app.products.applier import Applier, count, keep_measured
from app.products.commands import Adjust, Effect
from app.products.errors import Refused
from app.products.idempotency import Answer, IdempotencyKey, Origin, Replayed, WriteRequest
from app.products.product import Line, Reason
from app.products.reservation import Reservation
from app.products.service import Products
from app.products.source import ProductSource
from app.products.transactions import ProductTransactions
from tests.fakes.product_tables import ProductPostgres
from tests.fakes.write_path import MemoryDatabase
from tests.limits import write_limits
from tests.simulation.faults import network_delay
from tests.simulation.world import Process

REQUEST_TIMEOUT_MS = 4_000


@dataclass(frozen=True, slots=True)
class Shipped:
    """The parts of a shop that a mutant can swap."""

    acceptance: type[Acceptance] = Acceptance
    transactions: type[ProductTransactions] = ProductTransactions


SHIPPED = Shipped()


@dataclass(frozen=True, slots=True)
class Order:
    """A receipt of one unit of each product, known by its number."""

    number: int
    product_ids: tuple[str, ...]

    def command(self) -> Adjust:
        """Return what is to be done."""
        return Adjust([Line(key, 1) for key in self.product_ids], Reason.RECEIPT, str(self.number))

    def key(self) -> IdempotencyKey:
        """Return its idempotency key. Each key is used by two callers, for orders of their own."""
        return IdempotencyKey(f"till {self.number % 2}", str(self.number // 2), b"%d" % self.number, render)


Versions = dict[str, int]
"""The versions that an order gave to its products."""


def render(result: Sequence[Effect] | Reservation | Refused) -> Answer:
    """Return the answer: the versions. Nothing is ever refused."""
    assert not isinstance(result, Reservation | Refused), result
    return Answer(200, json.dumps({effect.row.id: effect.row.version for effect in result}).encode())


async def decode(write: AcceptedWrite) -> WriteRequest:
    """Return the order that was written down."""
    order = Order(2 * int(write.key) + int(write.caller[-1]), tuple(write.product_ids))
    return WriteRequest(order.command(), Origin(None, None, order.key()))


class Shop:
    """The write path of one process. It accepts nothing while it believes that ``most_rows`` wait."""

    def __init__(self, process: Process, shipped: Shipped, most_rows: int) -> None:
        world = process.world
        postgres = cast("ProductPostgres", world.postgres)
        in_memory = MemoryDatabase(postgres, process.postgres_wire, lambda: network_delay(world.chance))
        database = cast("Database", cast("Any", in_memory))
        opened = process.caches[process.entities["products"]]
        stats = AcceptedStats()
        cache, history = opened.protocol, opened.history
        transactions = shipped.transactions(
            database,
            history=history,
            chance=world.chance,
            clock=process.clock,
            decode=decode,
            on_accepted=partial(count, stats),
        )
        no_lists = cast("ProductSource", None)  # which nobody reads here
        limits = write_limits(request_timeout_ms=REQUEST_TIMEOUT_MS, product_places=2)
        acceptance = shipped.acceptance(
            database, history.record, stats, queue_limit=100, most_rows=most_rows, clock=process.clock
        )
        self.products = Products(cache, no_lists, transactions, limits)
        self.accepted = AcceptedWrites(cache, transactions, acceptance, decode, stats, request_timeout_ms=REQUEST_TIMEOUT_MS)
        applier = Applier(self.accepted.apply, acceptance.mark_failed, stats, opened.stats)
        process.run(applier.run())
        process.run(keep_measured(acceptance.measure, opened.stats))

    async def write(self, order: Order) -> Versions:
        """Carry an order out; return the versions of its answer, which may be a kept one."""
        try:
            effects = await self.products.write(order.command(), Origin(None, None, order.key()))
        except Replayed as replayed:
            return versions_of(replayed.answer)
        return {effect.row.id: effect.row.version for effect in effects}

    async def write_once(self, order: Order) -> Versions:
        """Carry an order out without a key; return the versions that it gave."""
        return {effect.row.id: effect.row.version for effect in await self.products.write(order.command())}

    async def accept(self, order: Order) -> Versions | None:
        """Accept an order as the endpoint does: ``None`` for a 202; an order that was decided before has its kept answer."""
        key = order.key()
        write = AcceptedWrite(key.caller, key.key, key.request_hash, order.product_ids, "adjust", "", "", b"", None)
        return await self.write(order) if isinstance(await self.accepted.accept(write), Decided) else None

    async def state(self, order: Order) -> WriteState | None:
        """Return what became of an order."""
        key = order.key()
        return await self.accepted.state(key.caller, key.key)


def versions_of(answer: Answer) -> Versions:
    """Return the versions that an answer names."""
    versions: Versions = json.loads(answer.body)
    return versions
