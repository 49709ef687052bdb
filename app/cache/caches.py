"""The caches of one process: one for each entity, on shared connections, with one loop of audits."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from .audit import Auditor
from .audit_loop import AuditLoop
from .entity import Entity, Key
from .errors import NotSettled
from .history import History
from .limits import Limits
from .policies import WritePolicy
from .ports import Clock, State
from .postgres.table_write import Change, ReadBack, TableTransactions
from .redis.nodes import RedisNodes
from .redis.store import RedisLinks
from .round_trips import Leases
from .stats import Stats
from .write_through import Acknowledgement, Read, WriteThrough


@dataclass(frozen=True, slots=True)
class Part:
    """What belongs to one namespace."""

    entity: Entity
    protocol: WriteThrough
    history: History
    stats: Stats
    audit: Auditor


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
        links: RedisLinks | RedisNodes,
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
        leases = await _take_leases(touched, policy)
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


async def _take_leases(touched: Sequence[_Touched], policy: WritePolicy | None) -> list[Leases]:
    """Take the leases for a write in every namespace. If one cannot be asked for, or the caller leaves, they are given back."""
    taking = [asyncio.create_task(one.cache.protocol.lease(one.texts, policy)) for one in touched]
    try:
        return await asyncio.gather(*taking)
    except BaseException:
        for task in taking:
            task.cancel()
        await asyncio.gather(*taking, return_exceptions=True)
        for one, task in zip(touched, taking, strict=True):
            if not task.cancelled() and task.exception() is None:
                one.cache.protocol.release(task.result())
        raise


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
