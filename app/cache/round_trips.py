"""Round trips to the store. Requests share them, and they are counted. If the store fails, only a drop fails with it."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from typing_extensions import override

from .batcher import Batcher
from .config import READ_YIELDS, CacheConfig
from .errors import LeasesInDoubt, Overloaded, StoreUnavailable
from .filled_slots import FilledSlots
from .history import History
from .policies import WritePolicy
from .ports import Clock, Outcome, Publication, Published, Reading, State, Store, Value
from .stats import Stats
from .tracing import UNTRACED, Joined, Place, Tracer, Unit
from .vacancies import Vacancies

Reply = TypeVar("Reply")
log = logging.getLogger(__name__)
_UNTOLD = nullcontext()


@dataclass(frozen=True, slots=True)
class Leases:
    """What a write holds before its transaction: tokens by key, or ``None`` if the store did not answer."""

    tokens: dict[str, str] | None
    taken_at: float
    """When they were taken, on this process's own clock."""
    policy: WritePolicy
    """What the write does to the slots."""


class BatchedTrips(ABC):
    """Batches of requests to the store, and what every process does with their results.

    The tracer is told of them only if it traces, so that otherwise a hit costs nothing.
    ``reads`` batches reads; their results have an epoch only if this process may trust it (R1). ``filled`` has the keys whose
    slot was last seen filled. ``weight`` returns how much of ``batch_keys`` a read takes up.
    """

    def __init__(
        self,
        config: CacheConfig,
        stats: Stats,
        history: History,
        clock: Clock,
        *,
        tracer: Tracer = UNTRACED,
        filled: FilledSlots | None = None,
        weight: Callable[[Sequence[str]], int] = len,
    ) -> None:
        self._tracer = tracer
        self._stats = stats
        self._history = history
        self._clock = clock
        self.filled = filled or FilledSlots(config.warm_keys)
        self._vacancies = Vacancies(self.filled)
        keys, queue = config.batch_keys, config.queue_limit
        self.reads: Batcher[Sequence[str], Reading] = Batcher(
            self._send_reads,
            weight=weight,
            max_weight=keys,
            queue_limit=queue,
            yields=READ_YIELDS,
            joined=self._told("read"),
            unclaimed=lambda reading: self.release(reading.leases or {}),
        )
        self._leases: Batcher[Sequence[str], dict[str, str]] = Batcher(
            self._send_leases,
            weight=len,
            max_weight=keys,
            queue_limit=queue,
            joined=self._told("lease"),
            unclaimed=self.release,
        )
        self._publishes: Batcher[Sequence[Publication], Published] = Batcher(
            self._send_publishes,
            weight=_publish_weight,
            max_weight=config.batch_bytes,
            queue_limit=queue,
            joined=self._told("publish"),
        )
        self._owed: dict[str, str] = {}
        """The keys of leases to give back when the store answers again, by token."""
        self._most_owed = keys
        """Number beyond which the oldest of them are forgotten."""
        self._releases: Batcher[dict[str, str], None] = Batcher(
            self._send_releases, weight=len, max_weight=keys, queue_limit=queue
        )

    def submit_read(self, keys: Sequence[str], unit: Unit | None = None) -> "asyncio.Future[Reading]":
        """Put a read into the next batch. Raises ``Overloaded``."""
        return self.reads.submit(keys, unit)

    async def read(self, keys: Sequence[str]) -> Reading:
        """Read slots for the present unit. Raises ``StoreUnavailable``, ``Overloaded``."""
        try:
            with self._tracer.wait(Place.STORE):
                return await self.reads.request(keys, self._tracer.unit())
        except StoreUnavailable as error:
            # The request's frame holds a future, the future holds the error, and the error's traceback holds the frame. While
            # the store is away, every read would leave such a cycle, whose collection would hold up all other requests.
            raise error.with_traceback(None)  # noqa: B904 - it is the same error

    async def lease(self, keys: Sequence[str]) -> dict[str, str] | None:
        """Take leases on empty slots; return their tokens, or ``None`` when the store did not answer."""
        if not keys:
            return {}
        try:
            with self._tracer.wait(Place.STORE):
                return await self._leases.request(keys, self._tracer.unit())
        except StoreUnavailable as error:
            error.with_traceback(None)  # see ``read``
            return None
        except Overloaded:
            return {}

    async def publish(self, publications: Sequence[Publication]) -> Published | None:
        """Put states into their slots and return the outcomes, or ``None`` when the store gave no definite answer."""
        if not publications:
            return Published((), proven=True)
        try:
            with self._tracer.wait(Place.STORE):
                return await self._publishes.submit(publications, self._tracer.unit())
        except (StoreUnavailable, Overloaded) as error:
            error.with_traceback(None)  # see ``read``
            self._stats.publish_failures += 1
            return None

    def release(self, tokens: Mapping[str, str]) -> None:
        """Begin to give leases back without waiting for it.

        While the store does not answer, they are owed: they are given back behind the next read that it answers. Otherwise
        their slots would stay empty until the leases expire.
        """
        if tokens:
            try:
                self._releases.submit(dict(tokens))
            except Overloaded:
                self._owe(tokens)

    async def aclose(self) -> None:
        """Finish the round trips that were accepted."""
        for batcher in (self.reads, self._leases, self._publishes):
            await batcher.aclose()
        self._release_owed()
        await self._releases.aclose()

    def _told(self, name: str) -> Joined | None:
        if not self._tracer.traces:
            return None
        joined = partial(self._tracer.joined, name, place=Place.STORE)
        # Most batches of reads serve only hits of which nobody is told.
        return lambda units: joined(units) if units else _UNTOLD

    @abstractmethod
    async def _send_reads(self, batch: Sequence[Sequence[str]]) -> Sequence[Reading | Exception]:
        """Read the slots of a batch in one round trip."""

    @abstractmethod
    async def _send_leases(self, batch: Sequence[Sequence[str]]) -> Sequence[dict[str, str] | Exception]:
        """Take the leases of a batch in one round trip."""

    @abstractmethod
    async def _release(self, tokens: dict[str, str]) -> None:
        """Give leases back in one round trip. Raises ``StoreUnavailable``."""

    @abstractmethod
    async def _send_publishes(self, batch: Sequence[Sequence[Publication]]) -> Sequence[Published | Exception]:
        """Publish the states of a batch in one round trip."""

    def _judged(self, partition: int, reading: Reading, read_at: float) -> Reading:
        """Return a reading without its epoch if this process may not trust that."""
        if self._history.trusts(reading.epoch):
            self._note_proof(partition, reading, read_at)
        elif reading.epoch:
            # The fence was set by the audit of another primary or database, so it means nothing for this process's history.
            self._history.note_stored(reading.epoch)
            return Reading("", reading.slots, leases=reading.leases)
        return reading

    @abstractmethod
    def _note_proof(self, partition: int, reading: Reading, read_at: float) -> None:
        """Remember when slots were last read under a fence that is trusted, and its incarnation."""

    def _shares(self, batch: Sequence[Sequence[Publication]], published: Published) -> list[Published]:
        """Return the answer of each item of a batch of publishes, and record the outcomes."""
        answers, start = [], 0
        for item in batch:
            outcomes = published.outcomes[start : start + len(item)]
            answers.append(Published(outcomes, published.proven))
            start += len(item)
            for publication, outcome in zip(item, outcomes, strict=True):
                self._record_outcome(publication.state.key, outcome)
        return answers

    async def _send_releases(self, batch: Sequence[dict[str, str]]) -> Sequence[None]:
        tokens: dict[str, str] = {}
        for one in batch:
            for key, token in one.items():
                if tokens.setdefault(key, token) != token:
                    self.release({key: token})  # in the next round trip
        try:
            await self._definite(self._release(tokens))
        except StoreUnavailable:
            self._owe(tokens)
        return [None] * len(batch)

    def _owe(self, tokens: Mapping[str, str]) -> None:
        """Remember leases to give back later."""
        self._owed |= {token: key for key, token in tokens.items()}
        while len(self._owed) > self._most_owed:
            del self._owed[next(iter(self._owed))]

    def _release_owed(self) -> None:
        """Begin to give owed leases back, because the store has answered."""
        if self._owed:
            owed, self._owed = self._owed, {}
            for token, key in owed.items():
                self.release({key: token})

    async def _definite(self, call: Awaitable[Reply]) -> Reply:
        """Return the store's reply. Any error counts as no reply, so the possible errors need no list."""
        try:
            return await call
        except LeasesInDoubt as error:
            self._owe(error.tokens)
            raise
        except StoreUnavailable:
            raise
        except Exception as error:
            self._stats.unexpected += 1
            log.exception("the store failed unexpectedly; the cache goes on without its reply")
            raise StoreUnavailable(str(error)) from error

    def _record_outcome(self, key: str, outcome: Outcome) -> None:
        self._stats.publishes[outcome] += 1
        self.filled.discard(key)
        if outcome in (Outcome.STORED, Outcome.KEPT):
            self.filled.add(key)


class RoundTrips(BatchedTrips):
    """The round trips of one process to a store whose slots all have one fence."""

    def __init__(
        self, store: Store, config: CacheConfig, stats: Stats, history: History, clock: Clock, *, tracer: Tracer = UNTRACED
    ) -> None:
        super().__init__(config, stats, history, clock, tracer=tracer)
        self._store = store
        self._incarnation = ""

    async def proven(self) -> bool:
        """Return whether a live fence was read. Raises ``StoreUnavailable``, ``Overloaded``."""
        return bool((await self.reads.submit(())).epoch)

    def last_proof(self, key: str) -> tuple[float | None, str]:
        """Return when a key's slot was last read under a fence that is trusted, and the fence's incarnation."""
        del key
        return self._stats.last_proven, self._incarnation

    several_nodes = False
    """Whether the keys are on more than one node."""

    def begin_leases(self, keys: Sequence[str]) -> "dict[asyncio.Task[dict[str, str] | None], list[str]]":
        """Begin to take leases; return the call to each node with its keys."""
        return {asyncio.create_task(self.lease(keys)): list(keys)}

    def by_node(self, keys: Sequence[str]) -> Sequence[list[str]]:
        """Return keys in groups, none of which depends on the node of another one."""
        return [list(keys)] if keys else []

    def rows_of(self, states: Sequence[State]) -> frozenset[str] | None:
        """Return the audit rows whose readers may see older states; ``None`` for all."""
        del states
        return None

    async def drop(self, key: str) -> None:
        """Empty one slot. Raises ``StoreUnavailable``."""
        self.filled.discard(key)
        with self._tracer.step("drop", Place.STORE):
            await self._definite(self._store.drop(key))

    @override
    async def _send_reads(self, batch: Sequence[Sequence[str]]) -> Sequence[Reading | Exception]:
        wanted = [key for keys in batch for key in keys]
        others = self.filled.others(wanted)
        began = self._clock()
        try:
            reading = await self._definite(self._store.read(wanted, self._vacancies.expected(wanted, others)))
        except StoreUnavailable as error:
            # Raising it would put the batcher's frame, which holds the futures, into the traceback: a reference cycle.
            return [error] * len(batch)
        self._release_owed()
        self._vacancies.observe(wanted, others, reading.slots)
        self._stats.store_read.observe(self._clock() - began)
        return readings_of(batch, self._judged(0, reading, began))

    @override
    def _note_proof(self, partition: int, reading: Reading, read_at: float) -> None:
        self._stats.last_proven = read_at
        self._incarnation = reading.incarnation

    @override
    async def _send_leases(self, batch: Sequence[Sequence[str]]) -> Sequence[dict[str, str]]:
        taken = await self._definite(self._store.lease(list(dict.fromkeys(key for keys in batch for key in keys))))
        return leases_of(batch, taken)

    @override
    async def _release(self, tokens: dict[str, str]) -> None:
        await self._store.release(tokens)

    @override
    async def _send_publishes(self, batch: Sequence[Sequence[Publication]]) -> Sequence[Published]:
        began = self._clock()
        published = await self._definite(self._store.publish([publication for item in batch for publication in item]))
        self._stats.store_publish.observe(self._clock() - began)
        self._stats.payload_bytes += sum(payload_bytes(publication) for item in batch for publication in item)
        return self._shares(batch, published)


def readings_of(batch: Sequence[Sequence[str]], reading: Reading) -> Sequence[Reading]:
    """Return the part of a reading that each item of its batch asked for."""
    if len(batch) == 1:
        return [reading]
    readings, start = [], 0
    leases = dict(reading.leases) if reading.leases else None
    for keys in batch:
        slots = reading.slots[start : start + len(keys)]
        # The first request for a key gets its token, as in ``leases_of``.
        own = {key: leases.pop(key) for key in keys if key in leases} if leases else None
        readings.append(Reading(reading.epoch, slots, reading.incarnation, own))
        start += len(keys)
    return readings


def leases_of(batch: Sequence[Sequence[str]], taken: dict[str, str]) -> list[dict[str, str]]:
    """Return the leases of each item of a batch.

    The first request for a key gets its token: two holders of one token could both fill.
    """
    return [{key: taken.pop(key) for key in keys if key in taken} for keys in batch]


def _publish_weight(publications: Sequence[Publication]) -> int:
    """Return a publish's weight: its payload bytes, and 100 for each slot's head and work in the script."""
    return sum(100 + payload_bytes(publication) for publication in publications)


def payload_bytes(publication: Publication) -> int:
    """Return the bytes of payload that a publication sends."""
    state = publication.state
    return len(state.payload) if isinstance(state, Value) and not publication.deletes else 0
