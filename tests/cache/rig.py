"""A service process without its HTTP layer, on real servers, whose every call to a port can be held, failed and counted.

The wrappers implement the ports and delegate to the real adapters: a schedule is forced by gates, never by waiting for luck.
"""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from app.cache.audit import Audit, Cycle
from app.cache.config import CacheConfig
from app.cache.errors import SourceUnavailable, StoreUnavailable
from app.cache.history import History
from app.cache.ports import AuditProgress, HistorySource, Publication, Published, Reading, Source, State, Store
from app.cache.redis_store import Lifetimes, RedisAuditStores, RedisStore
from app.cache.stats import Stats
from app.cache.table_audit import TableAuditSources
from app.cache.table_source import TableSource
from app.cache.write_through import Acknowledgement, WriteThrough
from app.postgres.database import Database
from app.products.commands import Command
from app.products.decision import Postponed
from app.products.idempotency import Asked
from app.products.product import Draft
from app.products.service import Products
from app.products.source import PRODUCTS, ProductSource
from app.products.transactions import Committed, Patience, ProductTransactions
from tests.limits import cache_config, lifetimes, redis_options, write_limits

Reply = TypeVar("Reply")

PATIENCE_S = 20.0
"""How long a test waits for what must happen; only a failing test waits so long."""

LONG_FENCE = cache_config(audit_interval_ms=2, fence_ttl_ms=120_000, fence_ttl_max_ms=120_000)
"""One audit's proof outlasts the test: the schedule alone decides, no background audit takes part."""

SHORT_FENCE = cache_config(audit_interval_ms=150, fence_ttl_ms=600, fence_ttl_max_ms=600, settle_poll_ms=20)
"""For outages, with audits in the background."""


class Gate:
    """Where a call waits until the test lets it go on."""

    def __init__(self) -> None:
        self._arrived = asyncio.Event()
        self._opened = asyncio.Event()

    async def enter(self) -> None:
        """Wait here; the call under test comes this way."""
        self._arrived.set()
        await self._opened.wait()

    async def arrival(self) -> None:
        """Wait until a call stands at the gate."""
        async with asyncio.timeout(PATIENCE_S):
            await self._arrived.wait()

    def open(self) -> None:
        """Let it go on."""
        self._opened.set()


@dataclass(frozen=True, slots=True)
class _Plan:
    after: bool
    gate: Gate | None = None
    error: Exception | None = None


@dataclass(slots=True)
class Calls:
    """What a port was asked, in order, and what its next calls meet."""

    log: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    seconds: list[tuple[str, float]] = field(default_factory=list)
    _plans: dict[str, deque[_Plan]] = field(default_factory=dict)
    _gates: list[Gate] = field(default_factory=list)

    def hold(self, verb: str, *, after: bool = False) -> Gate:
        """The verb's next call waits at a gate, before or after it did its work."""
        gate = Gate()
        self._gates.append(gate)
        self._plans.setdefault(verb, deque()).append(_Plan(after, gate=gate))
        return gate

    def let_go(self) -> None:
        """Open every gate: a test that failed with a call held must end, not hang."""
        for gate in self._gates:
            gate.open()

    def fail(self, verb: str, error: Exception, *, after: bool = False) -> None:
        """The verb's next call fails: before its work, or after it, as when a reply is lost."""
        self._plans.setdefault(verb, deque()).append(_Plan(after, error=error))

    def of(self, verb: str) -> list[tuple[str, ...]]:
        """The keys of each call of the verb, in order."""
        return [keys for name, keys in self.log if name == verb]

    def count(self) -> Counter[str]:
        """Calls by verb."""
        return Counter(name for name, _ in self.log)

    def slow(self, at_least_s: float) -> Counter[str]:
        """Calls that took so long, by verb."""
        return Counter(name for name, seconds in self.seconds if seconds >= at_least_s)

    async def run(self, verb: str, keys: Sequence[str], work: Callable[[], Awaitable[Reply]]) -> Reply:
        """Do a call as planned."""
        self.log.append((verb, tuple(keys)))
        plans = self._plans.get(verb)
        plan = plans.popleft() if plans else None
        if plan is not None and not plan.after:
            await _meet(plan)
        began = time.monotonic()
        try:
            reply = await work()
        finally:
            self.seconds.append((verb, time.monotonic() - began))
        if plan is not None and plan.after:
            await _meet(plan)
        return reply


async def _meet(plan: _Plan) -> None:
    if plan.gate is not None:
        await plan.gate.enter()
    if plan.error is not None:
        raise plan.error


class GatedStore:
    """The ``Store`` port in front of another store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.calls = Calls()
        self.publications: list[Publication] = []

    async def read(self, keys: Sequence[str]) -> Reading:
        return await self.calls.run("read", keys, lambda: self._store.read(keys))

    async def lease(self, keys: Sequence[str]) -> dict[str, str]:
        return await self.calls.run("lease", keys, lambda: self._store.lease(keys))

    async def publish(self, publications: Sequence[Publication]) -> Published:
        self.publications += publications
        keys = [publication.state.key for publication in publications]
        return await self.calls.run("publish", keys, lambda: self._store.publish(publications))

    async def release(self, tokens: dict[str, str]) -> None:
        await self.calls.run("release", list(tokens), lambda: self._store.release(tokens))

    async def drop(self, key: str) -> None:
        await self.calls.run("drop", [key], lambda: self._store.drop(key))


class GatedSource:
    """The ports ``Source`` and ``HistorySource`` in front of others."""

    def __init__(self, source: Source, history_source: HistorySource) -> None:
        self._source = source
        self._history_source = history_source
        self.calls = Calls()
        self.running: Counter[str] = Counter()
        self.most_running = 0

    async def load(self, keys: Sequence[str]) -> dict[str, State]:
        self.running.update(keys)
        self.most_running = max(self.most_running, *self.running.values())
        try:
            return await self.calls.run("load", keys, lambda: self._source.load(keys))
        finally:
            self.running.subtract(keys)

    async def tell_epoch(self) -> str:
        return await self.calls.run("epoch", [], self._history_source.tell_epoch)

    async def standing(self) -> AuditProgress:
        return await self.calls.run("standing", [], self._history_source.standing)

    async def adopt(self, fence_ttl_max_ms: int) -> AuditProgress:
        return await self.calls.run("adopt", [], lambda: self._history_source.adopt(fence_ttl_max_ms))


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the service: its cache, its service, and its ports."""

    cache: WriteThrough
    products: Products
    store: GatedStore
    source: GatedSource
    audit: Audit
    stats: Stats
    transactions: ProductTransactions
    redis: RedisStore

    async def trust(self) -> Cycle:
        """Audit once, so that the cache is proven current for as long as the fence lives."""
        cycle = await self.audit.cycle()
        assert cycle is not None
        assert cycle.trusted
        return cycle

    async def write(self, command: Command, committed: Gate | None = None) -> Acknowledgement:
        """Commit and publish, without settling; with a gate, wait there between the two."""

        async def transact() -> Committed:
            done = await self.transactions.commit([Asked(command)])
            if isinstance(done.decisions[0], Postponed):
                done = await self.transactions.commit([Asked(command)], Patience(int(PATIENCE_S * 1000), sorted(command.keys)))
            if committed is not None:
                await committed.enter()
            return done

        return (await self.cache.write(list(command.keys), transact))[1]

    async def version(self, key: str) -> int:
        """The version that a read answers."""
        return (await self.cache.read(key)).state.version


Open = Callable[..., Awaitable[Process]]


@asynccontextmanager
async def open_process(
    redis_url: str,
    database_url: str,
    namespace: str,
    *,
    config: CacheConfig = LONG_FENCE,
    lives: Lifetimes | None = None,
    redis_timeout_ms: int = 5_000,
    audited: bool = False,
) -> AsyncIterator[Process]:
    """Open a process; with ``audited``, audits run in its background."""
    options = redis_options(redis_url, timeout_ms=redis_timeout_ms, connect_timeout_ms=redis_timeout_ms, retry_ms=50)
    database = Database(database_url, connect_timeout_ms=2_000, acquire_timeout_ms=5_000)
    store = RedisStore(options, namespace, lives or lifetimes(lease_ttl_ms=60_000), random.Random(2))
    audit_stores = RedisAuditStores(options, namespace)
    stats = Stats()
    source = ProductSource(database)
    gated_store = GatedStore(store)
    gated_source = GatedSource(source, TableSource(database.loads, PRODUCTS, namespace))
    history = History(on_deposed=database.abandon)
    cache = WriteThrough(gated_store, gated_source, gated_source, config, stats, history=history)
    transactions = ProductTransactions(database, told=history.told, chance=random.Random(3))
    products = Products(cache, source, transactions, write_limits())
    audit = Audit(audit_stores.open, TableAuditSources(database, PRODUCTS, namespace).open, config, stats, history=history)
    await store.start()
    await audit_stores.start()
    await cache.start()
    gated_source.calls.log.clear()
    background = asyncio.create_task(audit.run()) if audited else None
    try:
        yield Process(cache, products, gated_store, gated_source, audit, stats, transactions, store)
        gated_store.calls.let_go()
        gated_source.calls.let_go()
        async with asyncio.timeout(PATIENCE_S):
            await products.aclose()
            await cache.aclose()
    finally:
        if background is not None:
            background.cancel()
            await asyncio.gather(background, return_exceptions=True)
        await audit_stores.close()
        await store.close()
        await database.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until the answer is yes; the servers, which nobody can wait for otherwise, take their time."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.01)


def draft(product_id: str, price_cents: int = 100, *, stock: int | None = None) -> Draft:
    """A product to create or replace."""
    return Draft(product_id, f"name of {product_id}", price_cents, stock)


LOST = StoreUnavailable("the test lost the reply")
AWAY = SourceUnavailable("the test took the source away")
