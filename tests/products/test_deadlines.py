"""Writes at their deadlines, and writes whose callers leave: what the callers are told, and what is still done for them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from app.cache.errors import Overloaded
from app.cache.write_through import Acknowledgement
from app.products.commands import set_stock
from app.products.decision import Decision, Done, Postponed
from app.products.errors import OutcomeUnknown
from app.products.idempotency import WriteRequest
from app.products.service import Products
from app.products.transaction import Committed, Patience
from tests.harness.script import PATIENCE_S, Gate
from tests.limits import write_limits

ROW = "row"
KEY = "key"


@dataclass(slots=True)
class Servers:
    """Transactions that may stop at a product's gate, and postpone a product for its row or its key; and a cache beside them.

    ``carried_out`` are the products of all requests that were not postponed.
    """

    gates: dict[str, Gate] = field(default_factory=dict)
    postponed: dict[str, str] = field(default_factory=dict)
    proven: bool = True
    carried_out: list[str] = field(default_factory=list)

    async def commit(self, batch: Sequence[WriteRequest], patience: Patience | None) -> Committed:
        del patience
        names = [request.command.keys[0] for request in batch]
        await asyncio.sleep(0)
        for name in names:
            if gate := self.gates.pop(name, None):
                await gate.enter()
        return Committed([self._decide(name) for name in names], ())

    def _decide(self, name: str) -> Decision:
        if reason := self.postponed.get(name):
            return Postponed((name,) if reason == ROW else ())
        self.carried_out.append(name)
        return Done(())

    async def write(
        self, keys: Sequence[str], transact: Callable[[], Awaitable[Committed]]
    ) -> tuple[Committed, Acknowledgement]:
        del keys
        return await transact(), Acknowledgement(self.proven, committed_at=0.0)

    async def settle(self, acknowledgement: Acknowledgement) -> None:
        if not acknowledgement.proven:
            await asyncio.Event().wait()


@pytest.fixture
def servers() -> Servers:
    return Servers()


@asynccontextmanager
async def _products(servers: Servers, timeout_s: float = PATIENCE_S) -> AsyncIterator[Products]:
    """Products with one main transaction at a time, which remember no deadline when all is answered."""
    limits = write_limits(
        request_timeout_ms=round(timeout_s * 1_000), idempotency_wait_ms=round(PATIENCE_S * 1_000), main_places=1
    )
    products = Products(cast("Any", servers), cast("Any", None), cast("Any", servers), limits)
    yield products
    async with asyncio.timeout(PATIENCE_S):
        await products.aclose()
    assert products._queue._deadlines._tickets == {}


def _write(products: Products, name: str) -> "asyncio.Task[Any]":
    return asyncio.create_task(products.write(set_stock(name, 1)))


async def test_what_is_under_way_at_its_deadline_is_told_as_unknown(servers: Servers) -> None:
    """What waits for its transaction is told as not begun, and it does not begin afterwards."""
    gate = servers.gates["a"] = Gate()
    async with _products(servers, 0.05) as products, asyncio.timeout(PATIENCE_S):
        under_way = _write(products, "a")
        await gate.arrival()
        waiting = _write(products, "b")
        with pytest.raises(OutcomeUnknown):
            await under_way
        with pytest.raises(Overloaded):
            await waiting
        gate.open()
    assert servers.carried_out == ["a"]


async def test_each_caller_is_told_at_its_own_deadline(servers: Servers) -> None:
    """One timer serves them all; it goes on to the next one when those before were answered, and when they were told."""
    timeout_s = 0.1
    servers.gates["a"] = gate = Gate()
    loop = asyncio.get_running_loop()

    async def told_after() -> float:
        began = loop.time()
        with pytest.raises((OutcomeUnknown, Overloaded)):
            await products.write(set_stock("a", 1))
        return loop.time() - began

    async with _products(servers, timeout_s) as products, asyncio.timeout(PATIENCE_S):
        await products.write(set_stock("answered", 1))
        waits = []
        for _ in range(4):
            waits.append(asyncio.create_task(told_after()))
            await asyncio.sleep(timeout_s / 5)
        assert min(await asyncio.gather(*waits)) >= timeout_s - 0.002  # the loop's clock counts milliseconds
        gate.open()
        await products.write(set_stock("b", 1))
    assert servers.carried_out == ["answered", "a", "b"]


async def test_who_waits_in_the_queue_of_a_product_is_told_at_the_deadline(servers: Servers) -> None:
    """Behind an attempt that hangs, the request has not begun, and it does not begin afterwards."""
    servers.postponed["a"] = ROW
    async with _products(servers, 1.0) as products, asyncio.timeout(PATIENCE_S):
        moved = _write(products, "a")
        while not products._queue._queues:
            await asyncio.sleep(0)
        gate = servers.gates["a"] = Gate()
        await gate.arrival()
        behind = _write(products, "a")
        with pytest.raises(OutcomeUnknown):
            await moved
        with pytest.raises(Overloaded):
            await behind
        servers.postponed.clear()
        gate.open()
    assert servers.carried_out == ["a"]


async def test_a_wait_for_another_request_with_the_same_key_ends_at_the_deadline(servers: Servers) -> None:
    """However often the request was submitted again, and whatever came after it."""
    servers.postponed["a"] = KEY
    async with _products(servers, 0.1) as products, asyncio.timeout(PATIENCE_S / 2):
        repeated = _write(products, "a")
        while not repeated.done():
            with suppress(Overloaded, OutcomeUnknown):  # from a machine that is busy for so long
                await products.write(set_stock("b", 1))
        with pytest.raises((Overloaded, OutcomeUnknown)):
            await repeated


async def test_a_write_that_does_not_settle_is_told_as_unknown_at_the_deadline(servers: Servers) -> None:
    """It is committed, and nobody knows whether every reader sees it."""
    servers.proven = False
    async with _products(servers, 0.05) as products, asyncio.timeout(PATIENCE_S):
        with pytest.raises(OutcomeUnknown):
            await products.write(set_stock("a", 1))


@pytest.mark.parametrize("moved", [False, True], ids=["before", "after"])
async def test_nothing_is_done_for_who_leaves_at_the_move(servers: Servers, *, moved: bool) -> None:
    """The caller is cancelled in the iteration of the event loop in which its request moves to its product's queue."""
    servers.postponed["a"] = ROW
    gate = servers.gates["a"] = Gate()
    async with _products(servers) as products, asyncio.timeout(PATIENCE_S):
        leaver = _write(products, "a")
        await gate.arrival()
        gate.open()
        if moved:
            asyncio.get_running_loop().call_soon(leaver.cancel)
        else:
            leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        servers.postponed.clear()
    assert servers.carried_out == []
