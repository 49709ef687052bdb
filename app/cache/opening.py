"""Opens the caches of one process: connections, protocol and audits, in order, and closes them in reverse order."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from ..postgres.database import Database
from .audit import Audit, Auditor
from .audit_loop import AuditLoop, OpenTogether
from .background import in_background
from .caches import Caches, Part
from .config import CacheConfig
from .entity import Entity
from .history import History
from .limits import Limits
from .partition_ports import PartitionedStore
from .partitioned_audit import PartitionedAudit
from .partitions import Partitions
from .policies import WritePolicy
from .ports import Store
from .postgres.partition_audit import PartitionAuditSources
from .postgres.shared_audit import open_shared_audit
from .postgres.table_audit import TableAuditSources
from .postgres.table_source import TableRows, TableSource
from .postgres.table_write import TableTransactions
from .redis.audit_store import RedisAuditStores, RedisSharedAudit
from .redis.connection import RedisLink
from .redis.node_store import RedisPartitions
from .redis.nodes import RedisNodes
from .redis.partition_audit import RedisPartitionAudits
from .redis.sentinel_watch import SentinelWatch
from .redis.store import Lifetimes, RedisLinks, RedisOptions, RedisStore
from .shared_audit import SharedCycle
from .stats import Stats
from .tracing import UNTRACED, Tracer
from .write_through import WriteThrough

MOST_ALONE = 3
"""Connections to PostgreSQL for audits that go on alone; those of further namespaces wait for one."""

DEFAULTS = Limits()


@asynccontextmanager
async def open_caches(
    database: str | Database,
    redis: str | RedisOptions,
    entities: Sequence[Entity],
    *,
    limits: Limits = DEFAULTS,
    tracer: Tracer = UNTRACED,
) -> AsyncIterator[Caches]:
    """Open the caches of several entities, with shared connections and one loop of audits.

    Neither server has to answer: while Redis is away reads go to the database, and both are tried again.

    Args:
        database: URL of the PostgreSQL primary whose migrations prepared the tables.
        redis: URL of Redis, e.g. ``redis://127.0.0.1:6379/0``, or of its sentinels, e.g.
            ``sentinel://h1:26379,h2:26379,h3:26379/0?service=name``. If ``limits.cache_partitions`` is above 1, it may be any
            node of a cluster.
        entities: the tables to cache, each with a namespace of its own.
        limits: deadlines and sizes.
        tracer: who is told what reads wait for.
    """
    if len({entity.table for entity in entities}) < len(entities) or len({e.namespace for e in entities}) < len(entities):
        raise ValueError("each table and each namespace may be given once")
    async with AsyncExitStack() as opened:
        if isinstance(database, str):
            database = _open_database(database, limits, further_audits=min(MOST_ALONE, len(entities) - 1))
            opened.push_async_callback(database.close)
        options = _redis_options(redis, limits) if isinstance(redis, str) else redis
        opened.push_async_callback(options.place.aclose)
        opening = _Opening(database, options, entities, limits, tracer)
        store, parts, together = await (opening.partitioned(opened) if limits.cache_partitions > 1 else opening.whole(opened))
        for part in parts:
            opened.push_async_callback(part.protocol.aclose)
        loop = AuditLoop({part.entity.cache_name: part.audit for part in parts}, together, limits.config())
        await loop.attempt_all()  # so that the first reads find a fence, if Redis can be reached
        for part in parts:
            await part.protocol.start()
        await opened.enter_async_context(in_background("audit", loop.run()))
        if options.place.has_sentinels:
            interval_s = limits.audit_interval_ms / 1000
            watch = SentinelWatch(options.place, lambda: [*store.all, *opening.audit_links], interval_s, parts[0].stats)
            await opened.enter_async_context(in_background("sentinel watch", watch.run()))
        transactions = TableTransactions(
            database,
            lock_timeout_ms=limits.database_lock_timeout_ms,
            statement_timeout_ms=limits.database_statement_timeout_ms,
        )
        yield Caches(parts, transactions, store, loop, limits)


Opened = tuple[RedisLinks | RedisNodes, list[Part], OpenTogether | None]
"""The connections to Redis, what belongs to each namespace, and what opens the audits' shared connections."""


class _Opening:
    """Opens the connections to Redis, and makes what belongs to each namespace."""

    def __init__(
        self, database: Database, options: RedisOptions, entities: Sequence[Entity], limits: Limits, tracer: Tracer
    ) -> None:
        self._database = database
        self._options = options
        self._entities = entities
        self._limits = limits
        self._tracer = tracer
        self.audit_links: Sequence[RedisLink] = ()
        """The links for audits, unless the nodes have links of their own for them."""

    async def whole(self, opened: AsyncExitStack) -> Opened:
        """Open namespaces that are not divided: all keys are on one server."""
        links = RedisLinks(self._options)
        opened.push_async_callback(links.close)
        shared, alone = self._options.link(), self._options.link()
        for link in (shared, alone):
            opened.push_async_callback(link.close)
        self.audit_links = shared, alone
        await links.start()
        await (shared if len(self._entities) > 1 else alone).start_once()
        parts = []
        for entity in self._entities:
            name = entity.cache_name
            store = RedisStore(links, name, self._lifetimes(entity))
            source = TableSource(self._database.loads, entity, name)
            audit_stores, sources = RedisAuditStores(alone, name), TableAuditSources(self._database, entity, name)
            audit = Audit(audit_stores.open, sources.open, self._config(entity), Stats(), history=self._history())
            parts.append(self._part(entity, store, source, audit))
        return links, parts, _opener(self._database, shared, self._entities)

    async def partitioned(self, opened: AsyncExitStack) -> Opened:
        """Open namespaces that are divided into partitions, each of which is on one node."""
        divided = [(entity, Partitions(entity.cache_name, self._limits.cache_partitions)) for entity in self._entities]
        nodes = RedisNodes(self._options, {slot for _, partitions in divided for slot in partitions.slots})
        opened.push_async_callback(nodes.close)
        await nodes.start()
        parts = []
        for entity, partitions in divided:
            store = RedisPartitions(nodes, partitions, self._lifetimes(entity))
            source = TableSource(self._database.loads, entity, *partitions.rows)
            audit_stores = RedisPartitionAudits(nodes, partitions)
            sources = PartitionAuditSources(self._database, entity, partitions.rows)
            audit = PartitionedAudit(
                audit_stores.open, sources.open, self._config(entity), Stats(), history=self._history(), partitions=partitions
            )
            parts.append(self._part(entity, store, source, audit))
        return nodes, parts, None

    def _part(self, entity: Entity, store: Store | PartitionedStore, source: TableSource, audit: Auditor) -> Part:
        rows = TableRows(self._database.loads, entity)
        stats, history = audit.stats, audit.history
        protocol = WriteThrough(store, rows, source, self._config(entity), stats, history=history, tracer=self._tracer)
        return Part(entity, protocol, history, stats, audit)

    def _config(self, entity: Entity) -> CacheConfig:
        return self._limits.config(WritePolicy(entity.writes), bypassed=entity.bypassed)

    def _history(self) -> History:
        return History(on_deposed=self._database.abandon)

    def _lifetimes(self, entity: Entity) -> Lifetimes:
        return Lifetimes(entity.ttl_s, entity.absent_ttl_s, self._limits.ttl_jitter_percent, self._limits.lease_ttl_ms)


def _opener(database: Database, link: RedisLink, entities: Sequence[Entity]) -> OpenTogether:
    by_namespace = {entity.cache_name: entity for entity in entities}

    @asynccontextmanager
    async def open_together(namespaces: Sequence[str]) -> AsyncIterator[SharedCycle]:
        async with open_shared_audit(database, by_namespace) as source:
            yield SharedCycle(RedisSharedAudit(link.connection()), source, namespaces)

    return open_together


def _open_database(url: str, limits: Limits, *, further_audits: int) -> Database:
    return Database(
        url,
        connections=limits.database_connections,
        connect_timeout_ms=limits.database_connect_timeout_ms,
        acquire_timeout_ms=limits.database_acquire_timeout_ms,
        statement_timeout_ms=limits.database_statement_timeout_ms,
        lock_timeout_ms=limits.database_lock_timeout_ms,
        further_audits=further_audits,
    )


def _redis_options(url: str, limits: Limits) -> RedisOptions:
    return RedisOptions(
        url,
        timeout_ms=limits.redis_timeout_ms,
        connect_timeout_ms=limits.redis_connect_timeout_ms,
        retry_ms=limits.redis_retry_ms,
        near_bytes=limits.near_bytes,
    )
