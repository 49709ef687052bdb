"""A service process without its HTTP layer, on real servers, whose every call to a port can be held, failed and counted.

The wrappers implement the ports and delegate to the real adapters: a schedule is forced by gates, never by waiting for luck.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from app.cache.audit import Audit, Cycle
from app.cache.audit_loop import AuditLoop
from app.cache.config import CacheConfig
from app.cache.errors import SourceUnavailable, StoreUnavailable
from app.cache.history import History
from app.cache.policies import WritePolicy
from app.cache.ports import (
    Announced,
    AuditProgress,
    AuditSource,
    AuditStore,
    Begun,
    Deferred,
    FenceLimits,
    HistorySource,
    Publication,
    Published,
    Reading,
    Repairs,
    Snapshot,
    Source,
    State,
    Store,
    Watermark,
)
from app.cache.postgres.table_audit import TableAuditSources
from app.cache.postgres.table_source import TableSource
from app.cache.redis.audit_store import RedisAuditStores
from app.cache.redis.store import Lifetimes, RedisLinks, RedisStore
from app.cache.stats import Stats
from app.cache.write_through import Acknowledgement, WriteThrough
from app.products.commands import Command
from app.products.decision import Postponed
from app.products.idempotency import WriteRequest
from app.products.product import Draft
from app.products.service import Products
from app.products.source import PRODUCTS, ProductSource
from app.products.transaction import Committed, Patience
from app.products.transactions import ProductTransactions
from tests.cache.whole import CountedCache, broken_sums, wrong_slots
from tests.harness.script import PATIENCE_S, Script
from tests.limits import cache_config, lifetimes, open_database, redis_options, write_limits
from tests.simulation.parts import no_shared_cycle

Reply = TypeVar("Reply")

LOST = StoreUnavailable("the test lost the reply")
AWAY = SourceUnavailable("the test took the source away")

LONG_FENCE = cache_config(audit_interval_ms=2, fence_ttl_ms=120_000, fence_ttl_max_ms=120_000)
"""One audit's proof outlasts the test: the schedule alone decides, no background audit takes part."""

SHORT_FENCE = cache_config(audit_interval_ms=150, fence_ttl_ms=600, fence_ttl_max_ms=600, settle_poll_ms=20)
"""For outages, with audits in the background."""


class Calls(Script):
    """What a port was asked, in order and in how many seconds, and what its next calls meet."""

    def __init__(self, lost: Exception) -> None:
        super().__init__(lambda: lost)
        self.log: list[tuple[str, tuple[str, ...]]] = []
        self.seconds: list[tuple[str, float]] = []
        self.answered: Counter[str] = Counter()
        self.keys_answered: Counter[str] = Counter()

    def of(self, verb: str) -> list[tuple[str, ...]]:
        """The keys of each call of the verb, in order."""
        return [keys for name, keys in self.log if name == verb]

    def count(self) -> Counter[str]:
        """Calls by verb."""
        return Counter(name for name, _ in self.log)

    def slow(self, at_least_s: float) -> Counter[str]:
        """Calls that took so long, by verb."""
        return Counter(name for name, seconds in self.seconds if seconds >= at_least_s)

    async def call(self, verb: str, keys: Sequence[str], work: Callable[[], Awaitable[Reply]]) -> Reply:
        """Do a call as planned."""

        async def timed() -> Reply:
            began = time.monotonic()
            try:
                return await work()
            finally:
                self.seconds.append((verb, time.monotonic() - began))

        self.log.append((verb, tuple(keys)))
        reply: Reply = await self.run(verb, timed)
        self.answered[verb] += 1
        self.keys_answered[verb] += len(keys)
        return reply


class GatedStore:
    """The ``Store`` port in front of another store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.calls = Calls(LOST)
        self.publications: list[Publication] = []
        self.leased_with_reads: list[str] = []
        """Keys whose leases were asked for with a read."""

    async def read(self, keys: Sequence[str], lease: Sequence[str] = ()) -> Reading:
        self.leased_with_reads += lease
        return await self.calls.call("read", keys, lambda: self._store.read(keys, lease))

    async def lease(self, keys: Sequence[str]) -> dict[str, str]:
        return await self.calls.call("lease", keys, lambda: self._store.lease(keys))

    async def publish(self, publications: Sequence[Publication]) -> Published:
        self.publications += publications
        keys = [publication.state.key for publication in publications]
        return await self.calls.call("publish", keys, lambda: self._store.publish(publications))

    async def release(self, tokens: dict[str, str]) -> None:
        await self.calls.call("release", list(tokens), lambda: self._store.release(tokens))

    async def drop(self, key: str) -> None:
        await self.calls.call("drop", [key], lambda: self._store.drop(key))


class GatedSource:
    """The ports ``Source`` and ``HistorySource`` in front of others."""

    def __init__(self, source: Source, history_source: HistorySource) -> None:
        self._source = source
        self._history_source = history_source
        self.calls = Calls(AWAY)
        self.running: Counter[str] = Counter()
        self.most_running = 0

    async def load(self, keys: Sequence[str]) -> dict[str, State]:
        self.running.update(keys)
        self.most_running = max(self.most_running, *self.running.values())
        try:
            return await self.calls.call("load", keys, lambda: self._source.load(keys))
        finally:
            self.running.subtract(keys)

    async def tell_epoch(self) -> str:
        return await self.calls.call("epoch", [], self._history_source.tell_epoch)

    async def standing(self) -> AuditProgress:
        return await self.calls.call("standing", [], self._history_source.standing)

    async def adopt(self, fence_ttl_max_ms: int) -> AuditProgress:
        return await self.calls.call("adopt", [], lambda: self._history_source.adopt(fence_ttl_max_ms))


class GatedAuditStore:
    """The ``AuditStore`` port in front of another."""

    def __init__(self, store: AuditStore, calls: Calls) -> None:
        self._store = store
        self._calls = calls

    async def begin(self, claim_ms: int) -> Begun:
        return await self._calls.call("begin", [], lambda: self._store.begin(claim_ms))

    async def verify(self, epoch: str, rows: Sequence[tuple[str, int]]) -> Repairs:
        return await self._calls.call("verify", [key for key, _ in rows], lambda: self._store.verify(epoch, rows))

    async def distrust(self, mark: Watermark | None) -> None:
        await self._calls.call("distrust", [], lambda: self._store.distrust(mark))

    async def trust(self, begun: Begun, proven: Watermark, fence_ttl_ms: int) -> bool:
        return await self._calls.call("trust", [], lambda: self._store.trust(begun, proven, fence_ttl_ms))


class GatedAuditSource:
    """The ``AuditSource`` port in front of another."""

    def __init__(self, source: AuditSource, calls: Calls) -> None:
        self._source = source
        self._calls = calls

    async def tell_epoch(self) -> str:
        return await self._calls.call("epoch", [], self._source.tell_epoch)

    async def announce(self, server: str, limits: FenceLimits) -> Announced | Deferred:
        return await self._calls.call("announce", [], lambda: self._source.announce(server, limits))

    @asynccontextmanager
    async def snapshot(self, since: Watermark | None, limits: FenceLimits, page_rows: int) -> AsyncIterator[Snapshot]:
        async with AsyncExitStack() as stack:
            opening = self._source.snapshot(since, limits, page_rows)
            yield await self._calls.call("snapshot", [], lambda: stack.enter_async_context(opening))

    async def complete(self, cycle: int) -> None:
        await self._calls.call("complete", [], lambda: self._source.complete(cycle))


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
    redis: RedisLinks
    slots: RedisStore
    """The store itself, for looks that are not counted."""

    async def trust(self) -> Cycle:
        """Audit once, so that the cache is proven current for as long as the fence lives."""
        cycle = await self.audit.cycle()
        assert cycle is not None
        assert cycle.trusted
        return cycle

    async def commit(self, command: Command) -> Committed:
        """Commit a command."""

        async def run() -> Committed:
            done = await self.transactions.commit([WriteRequest(command)])
            if isinstance(done.decisions[0], Postponed):
                done = await self.transactions.commit(
                    [WriteRequest(command)], Patience(int(PATIENCE_S * 1000), sorted(command.keys))
                )
            return done

        return await self.source.calls.call("commit", list(command.keys), run)

    async def write(self, command: Command, policy: WritePolicy | None = None) -> Acknowledgement:
        """Commit and publish, without settling."""
        return (await self.cache.write(list(command.keys), lambda: self.commit(command), policy=policy))[1]

    async def version(self, key: str) -> int:
        """The version that a read answers."""
        return (await self.cache.read(key)).state.version


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
    database = open_database(database_url, connect_timeout_ms=2_000, acquire_timeout_ms=5_000)
    links, audit_link = RedisLinks(options), options.link()
    store = RedisStore(links, namespace, lives or lifetimes(lease_ttl_ms=60_000), random.Random(2))
    audit_stores = RedisAuditStores(audit_link, namespace)
    stats = Stats()
    gated_store = GatedStore(store)
    source = ProductSource(database)
    gated_source = GatedSource(source, TableSource(database.loads, PRODUCTS, namespace))
    history = History(on_deposed=database.abandon)
    cache = CountedCache(gated_store, gated_source, gated_source, config, stats, history=history)
    transactions = ProductTransactions(database, history=history, chance=random.Random(3))
    products = Products(cache, source, transactions, write_limits())
    open_source = TableAuditSources(database, PRODUCTS, namespace).open

    @asynccontextmanager
    async def open_audit_store() -> AsyncIterator[AuditStore]:
        async with audit_stores.open() as opened:
            yield GatedAuditStore(opened, gated_store.calls)

    @asynccontextmanager
    async def open_audit_source() -> AsyncIterator[AuditSource]:
        async with open_source() as opened:
            yield GatedAuditSource(opened, gated_source.calls)

    audit = Audit(open_audit_store, open_audit_source, config, stats, history=history)
    await links.start()
    await audit_link.start_once()
    await cache.start()
    gated_source.calls.log.clear()
    background = asyncio.create_task(AuditLoop({namespace: audit}, no_shared_cycle, config).run()) if audited else None
    try:
        yield Process(cache, products, gated_store, gated_source, audit, stats, transactions, links, store)
        gated_store.calls.let_go()
        gated_source.calls.let_go()
        async with asyncio.timeout(PATIENCE_S):
            await products.aclose()
            await cache.aclose()
        ports = (gated_store.calls, gated_source.calls)
        broken = broken_sums(
            stats, cache, *(sum((p.answered for p in ports), Counter()), sum((p.keys_answered for p in ports), Counter()))
        )
        assert not broken, broken
        if not audited:
            # A server that the test left down holds nothing that could be compared.
            with suppress(StoreUnavailable, SourceUnavailable):
                async with audit_stores.open() as slots:
                    wrong = await wrong_slots(slots, source, audit)
                    assert not wrong, wrong
    finally:
        if background is not None:
            background.cancel()
            await asyncio.gather(background, return_exceptions=True)
        await audit_link.close()
        await links.close()
        await database.close()


async def cold_reads(process: Process, number: int = 20) -> None:
    """Read keys whose slots are empty, so that the next reads expect empty slots, too."""
    for cold in range(number):
        await process.cache.read(f"cold-{cold}")


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Ask until the answer is yes; the servers, which nobody can wait for otherwise, take their time."""
    async with asyncio.timeout(PATIENCE_S):
        while not (answer if isinstance(answer := condition(), bool) else await answer):
            await asyncio.sleep(0.01)


def draft(product_id: str, price_cents: int = 100, *, stock: int | None = None) -> Draft:
    """A product to create or replace."""
    return Draft(product_id, f"name of {product_id}", price_cents, stock)
