"""The caches of one process: one for each entity, on shared connections, with one loop of audits."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from ..postgres.database import Database
from .audit import Audit
from .audit_loop import AuditLoop, OpenTogether
from .background import in_background
from .entity import Entity, Key
from .errors import NotSettled
from .history import History
from .limits import Limits
from .policies import WritePolicy
from .ports import Clock, State
from .postgres.shared_audit import open_shared_audit
from .postgres.table_audit import TableAuditSources
from .postgres.table_source import TableRows, TableSource
from .postgres.table_write import Change, ReadBack, TableTransactions
from .redis.audit_store import RedisAuditStores, RedisSharedAudit
from .redis.connection import RedisLink
from .redis.sentinel_watch import SentinelWatch
from .redis.store import Lifetimes, RedisLinks, RedisOptions, RedisStore
from .round_trips import Leases
from .shared_audit import SharedCycle
from .stats import Stats
from .tracing import UNTRACED, Tracer
from .write_through import Acknowledgement, Read, WriteThrough

MOST_ALONE = 3
"""Connections to PostgreSQL for audits that go on alone; those of further namespaces wait for one."""

DEFAULTS = Limits()


@dataclass(frozen=True, slots=True)
class Part:
    """What belongs to one namespace."""

    entity: Entity
    protocol: WriteThrough
    history: History
    stats: Stats
    audit: Audit


class Cache:
    """The cache of one entity. Keys are given as the table has them, e.g. ``7`` or ``"p-1"``."""

    def __init__(self, part: Part, caches: "Caches", ttl_max_s: int) -> None:
        self._caches = caches
        self._ttl_max_s = ttl_max_s
        self.entity = part.entity
        self.protocol = part.protocol
        """The fenced write-through protocol on this namespace, for code that brings its own transactions."""
        self.history = part.history
        self.stats = part.stats

    async def read(self, key: Key, *, ttl_s: int | None = None, refresh: bool = False) -> Read:
        """Read one row.

        Args:
            key: its key.
            ttl_s: life of the row in the cache if this read puts it there; by default the entity's.
            refresh: read the database, and replace an older entry.

        Raises:
            InvalidKey: no row can have this key.
            SourceUnavailable: the database cannot be reached, and the cache has no proven copy.
            Overloaded: too many requests wait.
        """
        return (await self.read_many((key,), ttl_s=ttl_s, refresh=refresh))[0]

    async def read_many(self, keys: Sequence[Key], *, ttl_s: int | None = None, refresh: bool = False) -> list[Read]:
        """Read several rows in one round trip; return them in the order of ``keys``. Raises as ``read``."""
        texts = [self.entity.key_text(key) for key in keys]
        different = list(dict.fromkeys(texts))
        reads = await self.protocol.read_many(different, refresh=refresh, ttl_s=self.checked_ttl_s(ttl_s))
        by_text = dict(zip(different, reads, strict=True))
        return [by_text[text] for text in texts]

    async def write(
        self, keys: Sequence[Key], change: Change, *, ttl_s: int | None = None, writes: WritePolicy | str | None = None
    ) -> dict[Key, State]:
        """Run ``change`` in a transaction, commit it, and return once every reader sees it.

        Args:
            keys: the rows that the answer is about. Further rows of the table that ``change`` touches are published as well.
            change: changes rows, in the transaction whose session it is given. What it raises rolls back and is raised here.
            ttl_s: life of the rows in the cache if this write puts them there; by default the entity's.
            writes: what to do with the rows' slots; by default the entity's policy.

        Returns:
            The last state of each of ``keys``, as it was committed.

        Raises:
            NotSettled: the change is committed, but a reader may still see older rows.
            CommitUnknown: everything was changed, or nothing.
            InvalidKey, Overloaded, DatabaseError: nothing was changed.
        """
        return (await self._caches.write({self.entity: keys}, change, ttl_s=ttl_s, writes=writes))[self.entity]

    async def invalidate(self, key: Key) -> None:
        """Drop one entry of the cache. Raises ``InvalidKey``, and ``StoreUnavailable`` if the entry may still be there."""
        await self.protocol.drop(self.entity.key_text(key))

    def checked_ttl_s(self, ttl_s: int | None) -> int | None:
        """Return a life that a call may ask for. Raises ``ValueError`` for any other."""
        if ttl_s is not None and not 1 <= ttl_s <= self._ttl_max_s:
            raise ValueError(f"ttl_s must be from 1 to {self._ttl_max_s}, it is {ttl_s}")
        return ttl_s


class Caches:
    """The caches of one process, by entity."""

    def __init__(
        self,
        parts: Sequence[Part],
        transactions: TableTransactions,
        links: RedisLinks,
        loop: AuditLoop,
        limits: Limits,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self._clock = clock
        self._caches = {part.entity.table: Cache(part, self, limits.ttl_max_s) for part in parts}
        self._transactions = transactions
        self.store = links
        """The connections to Redis, whose state the metrics show."""
        self.loop = loop
        """The audits, which run in the background."""

    def __getitem__(self, entity: Entity) -> Cache:
        """Return the cache of an entity. Raises ``KeyError`` for one that was not opened."""
        return self._caches[entity.table]

    @property
    def stats(self) -> Mapping[str, Stats]:
        """The counters of each namespace."""
        return {cache.entity.namespace: cache.stats for cache in self._caches.values()}

    async def write(
        self,
        wanted: Mapping[Entity, Sequence[Key]],
        change: Change,
        *,
        ttl_s: int | None = None,
        writes: WritePolicy | str | None = None,
    ) -> dict[Entity, dict[Key, State]]:
        """Run ``change`` in one transaction over several tables. See ``Cache.write``.

        Args:
            wanted: every table that ``change`` touches, with the keys that the answer is about.
            change: changes rows.
            ttl_s: see ``Cache.write``.
            writes: see ``Cache.write``.
        """
        policy = None if writes is None else WritePolicy(writes)
        touched = self._touched(wanted)
        lives_s = [one.cache.checked_ttl_s(ttl_s) for one in touched]
        leases = await asyncio.gather(*(one.cache.protocol.lease(one.texts, policy) for one in touched))
        try:
            found = await self._transactions.commit(_keys_of(touched), change, _check_of(touched, self._clock()))
        except BaseException:
            for one, taken in zip(touched, leases, strict=True):
                one.cache.protocol.release(taken)
            raise
        await _publish(touched, found, leases, lives_s)
        return _answers(wanted, touched, found)

    async def read_back(
        self, connection: psycopg.AsyncConnection[Any], wanted: Mapping[Entity, Sequence[Key]]
    ) -> "OwnTransaction":
        """Read back what a transaction of the caller's own changed. This is its last statement before COMMIT.

        Args:
            connection: the transaction's connection, to the primary of these caches.
            wanted: every table that the transaction touched, with the keys that the answer is about.

        Returns:
            What to await after COMMIT, before anybody is told of the change.

        Raises:
            InvalidKey, SourceRefused, DatabaseError: the transaction must be rolled back.
        """
        touched = self._touched(wanted)
        leases = [await one.cache.protocol.lease(()) for one in touched]  # rows are locked, so nothing is asked of Redis
        found, xid = await self._transactions.read_back(connection, _keys_of(touched), _check_of(touched, self._clock()))
        return OwnTransaction(self._transactions, xid, wanted, touched, found, leases)

    def _touched(self, wanted: Mapping[Entity, Sequence[Key]]) -> "list[_Touched]":
        return [
            _Touched(self[entity], {key: self[entity].entity.key_text(key) for key in keys}) for entity, keys in wanted.items()
        ]


@dataclass(frozen=True, slots=True)
class _Touched:
    """A table that a transaction changes, and the text of each key that its caller gave."""

    cache: Cache
    by_key: Mapping[Key, str]

    @property
    def texts(self) -> list[str]:
        return list(dict.fromkeys(self.by_key.values()))

    def answer(self, states: Sequence[State]) -> dict[Key, State]:
        by_text = {state.key: state for state in states}
        return {key: by_text[text] for key, text in self.by_key.items()}


@dataclass(frozen=True, slots=True)
class OwnTransaction:
    """A transaction of the caller's own, as ``Caches.read_back`` found it. Without a COMMIT nothing has to be done with it."""

    _transactions: TableTransactions
    _xid: str | None
    _wanted: Mapping[Entity, Sequence[Key]]
    _touched: Sequence[_Touched]
    _found: Sequence[ReadBack]
    _leases: Sequence[Leases]

    async def committed(self, *, ttl_s: int | None = None) -> dict[Entity, dict[Key, State]]:
        """Publish what was committed; return once every reader sees it, with the states that ``Caches.write`` returns.

        Args:
            ttl_s: see ``Cache.write``.

        Raises:
            NotSettled: the change is committed, but a reader may still see older rows.
            TransactionConflict: the transaction is open, or was rolled back; nothing was published.
            CommitUnknown: the database could not be asked whether it was committed; nothing was published.
        """
        lives_s = [one.cache.checked_ttl_s(ttl_s) for one in self._touched]
        await self._transactions.check_committed(self._xid)
        await _publish(self._touched, self._found, self._leases, lives_s)
        return _answers(self._wanted, self._touched, self._found)


def _keys_of(touched: Sequence[_Touched]) -> list[tuple[Entity, Sequence[str]]]:
    return [(one.cache.entity, one.texts) for one in touched]


def _check_of(touched: Sequence[_Touched], began: float) -> Callable[[Sequence[ReadBack]], None]:
    """Return the check of a transaction that began at that moment: its database must be the present primary."""

    def check(found: Sequence[ReadBack]) -> None:
        for one, read_back in zip(touched, found, strict=True):
            for state in read_back.states[:1]:
                one.cache.history.record(state.epoch, began)

    return check


def _answers(
    wanted: Mapping[Entity, Sequence[Key]], touched: Sequence[_Touched], found: Sequence[ReadBack]
) -> dict[Entity, dict[Key, State]]:
    return {entity: one.answer(read_back.states) for entity, one, read_back in zip(wanted, touched, found, strict=True)}


async def _publish(
    touched: Sequence[_Touched], found: Sequence[ReadBack], leases: Sequence[Leases], lives_s: Sequence[int | None]
) -> None:
    """Publish what was committed, and return once it may be acknowledged in every namespace. Raises ``NotSettled``."""
    acknowledgements = await asyncio.gather(
        *(
            one.cache.protocol.publish(read_back.states, taken, life_s)
            for one, read_back, taken, life_s in zip(touched, found, leases, lives_s, strict=True)
        )
    )
    settled = await asyncio.gather(
        *(
            one.cache.protocol.settle(
                ack if read_back.complete else Acknowledgement(proven=False, committed_at=ack.committed_at)
            )
            for one, read_back, ack in zip(touched, found, acknowledgements, strict=True)
        ),
        return_exceptions=True,
    )
    for result in settled:
        if isinstance(result, BaseException):
            raise result if isinstance(result, NotSettled) else NotSettled(f"the write is committed, but: {result}") from result


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
            ``sentinel://h1:26379,h2:26379,h3:26379/0?service=name``.
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
        links = RedisLinks(options)
        opened.push_async_callback(links.close)
        shared, alone = options.link(), options.link()
        for link in (shared, alone):
            opened.push_async_callback(link.close)
        await links.start()
        await (shared if len(entities) > 1 else alone).start_once()
        parts = [_part(entity, database, links, alone, limits, tracer=tracer) for entity in entities]
        for part in parts:
            opened.push_async_callback(part.protocol.aclose)
        loop = AuditLoop(
            {part.entity.cache_name: part.audit for part in parts}, _opener(database, shared, entities), limits.config()
        )
        await loop.attempt_all()  # so that the first reads find a fence, if Redis can be reached
        for part in parts:
            await part.protocol.start()
        await opened.enter_async_context(in_background("audit", loop.run()))
        if options.place.has_sentinels:
            interval_s = limits.audit_interval_ms / 1000
            watch = SentinelWatch(options.place, (*links.all, shared, alone), interval_s, parts[0].stats)
            await opened.enter_async_context(in_background("sentinel watch", watch.run()))
        transactions = TableTransactions(
            database,
            lock_timeout_ms=limits.database_lock_timeout_ms,
            statement_timeout_ms=limits.database_statement_timeout_ms,
        )
        yield Caches(parts, transactions, links, loop, limits)


def _part(entity: Entity, database: Database, links: RedisLinks, alone: RedisLink, limits: Limits, *, tracer: Tracer) -> Part:
    config = limits.config(WritePolicy(entity.writes), bypassed=entity.bypassed)
    stats, history = Stats(), History(on_deposed=database.abandon)
    lifetimes = Lifetimes(entity.ttl_s, entity.absent_ttl_s, limits.ttl_jitter_percent, limits.lease_ttl_ms)
    store = RedisStore(links, entity.cache_name, lifetimes)
    source = TableSource(database.loads, entity, entity.cache_name)
    protocol = WriteThrough(store, TableRows(database.loads, entity), source, config, stats, history=history, tracer=tracer)
    audit_stores = RedisAuditStores(alone, entity.cache_name)
    audit_sources = TableAuditSources(database, entity, entity.cache_name)
    return Part(entity, protocol, history, stats, Audit(audit_stores.open, audit_sources.open, config, stats, history=history))


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
