"""The fenced write-through protocol: a cache that is trusted only while it is proven current.

Format
    There is one slot per key. It is empty or holds a lease or a state (see ``slot``): epoch, version, incarnation, key and
    payload. A namespace has a *fence* (server, epoch, incarnation) that expires, and a *watermark* (server, epoch, transaction
    id up to which slots were audited, incarnation). A new incarnation begins whenever nothing is known about the slots.

Validity
    A slot counts only if one atomic read returned it together with a live fence that names the server that was read. The fence
    must have the latest epoch of this process's source (``history``), and the slot that epoch, the fence's incarnation and the
    requested key. Anything else is a miss.

Read
    Requests share one read of slots and fence (R1, R7). After a miss the empty slot is leased, the row is loaded in a snapshot
    taken after the lease, and it is published with the lease's token (R2, ``loads``). Without a lease nothing is filled.

Write
    Slots not known to be filled are leased. After the commit, the last state of every row that changed is published (R3). If
    the answer is definite and proven, the write is acknowledged. Otherwise it *settles*: it waits until an audit that began
    after the commit has finished, or until no fence can be live (R4, ``settle``). A write that changed nothing publishes too
    (R10). Other policies lease nothing, delete instead of storing, or leave the slots to the audit (``policies``).

Audit
    Twice a second for the fleet, rows changed since the watermark are compared with their slots; then watermark and fence move
    on (R5, R6, ``audit``).

Failures
    =============================  =====================================================================
    store down, slow, in error     reads load from the source; writes settle, which is quick once the fence has expired
    source down                    reads of proven slots go on until the fence expires, then fail or are flagged (R9)
    publish lost or late           the write settles; the next audit deletes the slot
    writer dies after commit       nothing was acknowledged; the next audit deletes the slot
    commit answer lost             the outcome is reported as unknown; the cache is not changed
    source is an old primary       other processes trust neither its fence nor its slots; its own processes refuse every request
    =============================  =====================================================================

docs/PROTOCOL.md has the rules in full. docs/PROOF.md has the schedule that each guard defeats, and what fails without it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import TypeVar

from . import slot
from .config import CacheConfig
from .errors import NotSettled, Overloaded, SourceDeposed, SourceUnavailable, StoreUnavailable
from .history import History
from .loads import Load, Loaded, Loads, SlotFilled
from .partition_ports import PartitionedStore
from .partitioned_trips import trips_to
from .partitions import joined
from .policies import WritePolicy
from .ports import Clock, HistorySource, Outcome, Publication, Published, Reading, Source, State, Store, Value, WithStates
from .round_trips import Leases
from .sampled_keys import SampledKeys
from .settle import Settler
from .stats import Stats
from .tracing import UNTRACED, Place, Tracer

log = logging.getLogger(__name__)

UNREACHABLE = "redis-unavailable"
UNPROVEN = "unproven"
UNVERIFIED = "unverified"
SWITCHED_OFF = "switched-off"


class Status(StrEnum):
    """How a read was answered."""

    HIT = "hit"
    MISS = "miss"
    STORED = "stored"
    """A miss that filled its slot."""
    BYPASS = "bypass"
    """The cache could not be used; ``detail`` has the reason."""
    REFRESHED = "refreshed"
    REFRESHED_STORED = "refreshed-stored"
    UNVERIFIED = "unverified"
    """The source could not be reached, and a cached state was served that is not proven current (R9)."""


@dataclass(frozen=True, slots=True)
class Read:
    """The answer to a read. ``detail`` is a word that explains a bypass or a flag; otherwise it is empty."""

    state: State
    status: Status
    detail: str = ""


Peeked = Value | Reading | None
"""The result of ``peek``: the proven value, otherwise the reading to pass to ``read``, or ``None`` if the store gave none."""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Whether a committed write may be answered: at once if ``proven``, otherwise after ``WriteThrough.settle``."""

    proven: bool
    committed_at: float
    """When the commit's answer arrived, on this process's own clock."""
    unproven: frozenset[str] | None = None
    """The audit rows of the partitions that ``settle`` has to wait for; ``None`` for all."""


Committed = TypeVar("Committed", bound=WithStates)


class WriteThrough:
    """The cache of one namespace in one process. It uses only keys, versions and payload bytes of the rows."""

    def __init__(
        self,
        store: Store | PartitionedStore,
        source: Source,
        history_source: HistorySource,
        config: CacheConfig,
        stats: Stats,
        *,
        history: History,
        clock: Clock = time.monotonic,
        tracer: Tracer = UNTRACED,
    ) -> None:
        self._tracer = tracer
        self._history_source = history_source
        self._config = config
        self._stats = stats
        self._history = history
        self._clock = clock
        self._sample = SampledKeys(config.sample_keys, stats.written_keys) if config.sample_keys else None
        self._partitions = store.partitions if isinstance(store, PartitionedStore) else None
        own = self._partitions.rows if self._partitions else ()
        self._settler = Settler(history_source, config, stats, history, clock, own=own)
        self._trips = trips_to(store, config, stats, history, clock, tracer=tracer)
        self._loads = Loads(source, self._trips, config, stats, history, clock=clock, tracer=tracer)

    async def start(self) -> None:
        """Read the source's epoch, so that the first read can hit. If that fails, the first load reads it."""
        with suppress(SourceUnavailable, Overloaded):
            await self.ping()

    async def ping(self) -> None:
        """Read the source's present epoch, which shows that it can serve. Raises ``SourceUnavailable``, ``Overloaded``."""
        asked_at = self._clock()
        self._history.record(await self._history_source.tell_epoch(), asked_at)

    async def proven(self) -> bool:
        """Return whether the cache is proven current now: whether a live fence was read. Raises ``StoreUnavailable``."""
        return await self._trips.proven()

    async def read(
        self, key: str, *, refresh: bool = False, stale_s: int = 0, reading: Reading | None = None, ttl_s: int | None = None
    ) -> Read:
        """Read one key (G1).

        Args:
            key: what to read.
            refresh: skip the store, read the source, and replace an older entry.
            stale_s: if the source cannot be reached, accept an unproven state up to this many seconds after the last proof.
            reading: the result of ``peek`` for the same request. It saves the round trip. It must not be used for a request
                that began after it.
            ttl_s: life of the slot if this read fills it; of requests that share a load, the longest counts.

        Raises ``SourceUnavailable`` if there is neither a proven nor an acceptable unproven state, and ``Overloaded``.
        """
        return (await self.read_many((key,), refresh=refresh, stale_s=stale_s, reading=reading, ttl_s=ttl_s))[0]

    async def read_many(
        self,
        keys: Sequence[str],
        *,
        refresh: bool = False,
        stale_s: int = 0,
        reading: Reading | None = None,
        ttl_s: int | None = None,
    ) -> list[Read]:
        """Read several different keys in one round trip and return their states in the order of ``keys``. See ``read``."""
        with self._tracer.step("cache.read"):
            if self._sample:
                self._sample.read(keys)
            if self._config.bypassed:
                return await self._bypass(keys, SWITCHED_OFF)
            if refresh:
                return await self._refresh(keys, ttl_s)
            if self._partitions is None or len(keys) == 1:
                return await self._read_part(keys, reading, stale_s, ttl_s)
            # A read is of one partition, because its fence vouches for no other. The parts share round trips.
            parts = list(self._partitions.cut(keys).values())
            found = await asyncio.gather(*(self._read_part([keys[at] for at in own], None, stale_s, ttl_s) for own in parts))
            return joined(parts, found)

    def peek(self, key: str, then: Callable[[Peeked], None]) -> None:
        """Read only the slot of one key, without a task, because a task would cost more than the read itself.

        ``then`` is called once. A hit is counted here only if ``then`` gets a value; otherwise ``read`` counts.
        """
        if self._config.bypassed:
            then(None)
            return
        try:
            self._trips.submit_read((key,)).add_done_callback(partial(self._deliver, key, then, self._loads.fills))
        except Overloaded:
            then(None)

    def _deliver(self, key: str, then: Callable[[Peeked], None], fills: int, found: "asyncio.Future[Reading]") -> None:
        if found.cancelled() or found.exception() is not None:
            then(None)
            return
        reading = found.result()
        state = self._trusted_state(reading.slots[0], key, reading)
        if isinstance(state, Value):
            if reading.leases:
                self._trips.release(reading.leases)
            self._stats.hits += 1
            if self._sample:
                self._sample.read((key,))
            then(state)
        else:
            then(replace(reading, fills=fills))

    async def drop(self, key: str) -> None:
        """Empty one slot, whatever it holds. Raises ``StoreUnavailable``."""
        await self._trips.drop(key)

    async def write(
        self, keys: Sequence[str], transact: Callable[[], Awaitable[Committed]], *, policy: WritePolicy | None = None
    ) -> tuple[Committed, Acknowledgement]:
        """Run a transaction and publish what it committed (R3).

        Args:
            keys: all keys that ``transact`` may change.
            transact: runs and commits the transaction. If it raises, the caller gets the error, and nothing is published.
            policy: what to do with the slots, unless the cache is switched off; the namespace's own policy if ``None``.

        Returns the result of ``transact``, and the acknowledgement to pass to ``settle`` before the write is answered.
        """
        leases = await self.lease(keys, policy)
        try:
            committed = await transact()
        except BaseException:
            self.release(leases)
            raise
        return committed, await self.publish(committed.states, leases)

    async def lease(self, keys: Sequence[str], policy: WritePolicy | None = None) -> Leases:
        """Take the leases for a write, before its transaction begins. ``publish`` or ``release`` must follow."""
        policy = WritePolicy.ASIDE if self._config.bypassed else policy or self._config.write_policy
        wanted = [key for key in keys if key not in self._trips.filled] if policy is WritePolicy.THROUGH else []
        return Leases(await self._trips.lease(wanted), self._clock(), policy)

    def release(self, leases: Leases) -> None:
        """Give back the leases of a write that publishes nothing."""
        self._trips.release(leases.tokens or {})

    async def publish(self, states: Sequence[State], leases: Leases, ttl_s: int | None = None) -> Acknowledgement:
        """Publish what a transaction has just committed (R3). It never fails: what cannot be published settles."""
        committed_at = self._clock()
        if self._sample:
            self._sample.write(state.key for state in states)
        try:
            published = await self._prove(states, leases, ttl_s)
        except BaseException as error:
            self.release(leases)
            if not isinstance(error, Exception):
                raise
            # The write is committed, so an error would be wrong. Settling is correct after any failure.
            self._stats.unexpected += 1
            log.exception("a committed write could not be published, it settles instead")
            published = Published((), proven=False)
        return Acknowledgement(published.proven, committed_at, published.unproven)

    async def _prove(self, states: Sequence[State], leases: Leases, ttl_s: int | None) -> Published:
        """Publish the committed states as the policy says; return whether every reader sees them from now on."""
        unproven = Published((), proven=False, unproven=self._trips.rows_of(states))
        tokens = leases.tokens or {}
        if states:
            with suppress(SourceDeposed):
                self._history.record(states[0].epoch, leases.taken_at)
        if self._history.deposed:
            self.release(leases)
            return unproven
        if leases.policy is WritePolicy.AROUND:
            return unproven if states else Published((), proven=True)
        if leases.tokens is None:
            # The store did not answer a moment ago, and another try would cost a second deadline.
            self._stats.publish_failures += 1
            return unproven
        deletes = leases.policy is WritePolicy.ASIDE
        publications = [Publication(state, tokens.get(state.key, ""), ttl_s, deletes) for state in states]
        published = await self._trips.publish(publications)
        if published is None:
            self.release(leases)  # a lease that cannot be used prevents others from filling the slot
            return unproven
        self._trips.release({key: tokens[key] for key in tokens.keys() - {state.key for state in states}})
        if leases.policy is WritePolicy.THROUGH:
            self._loads.refill(
                state.key for state, outcome in zip(states, published.outcomes, strict=True) if outcome is Outcome.EMPTY
            )
        return published

    async def settle(self, acknowledgement: Acknowledgement) -> None:
        """Return when the write may be acknowledged (R4).

        Raises ``NotSettled``: the deadline passed first, too many writes wait, or the source is an old primary.
        """
        if not acknowledgement.proven:
            with self._tracer.step("cache.settle", Place.AUDIT):
                await self._settler.settle(acknowledgement.committed_at, acknowledgement.unproven)
            if self._history.deposed:
                await self._check_primary()

    async def _check_primary(self) -> None:
        """Raise ``NotSettled`` unless the write's source is the present primary after all."""
        try:
            await self.ping()
        except (SourceUnavailable, Overloaded) as error:
            raise NotSettled(f"the write is committed, but another primary has taken over meanwhile: {error}") from error

    async def aclose(self) -> None:
        """Finish the loads, round trips and waits that were accepted."""
        for part in (self._loads, self._trips, self._settler):
            await part.aclose()

    async def _read_part(self, keys: Sequence[str], reading: Reading | None, stale_s: int, ttl_s: int | None) -> list[Read]:
        """Read keys of one partition. A load is spared once at most: for a reading that was handed over, and may be old."""
        fills = reading.fills if reading and reading.epoch else None
        try:
            reading = reading or await self._trips.read(keys)
        except StoreUnavailable:
            return await self._bypass(keys, UNREACHABLE)
        found = [self._trusted_state(raw, key, reading) for key, raw in zip(keys, reading.slots, strict=True)]
        leases = dict(reading.leases or {})
        wanted = [
            Load(key, raw is None or slot.is_void(raw, reading), ttl_s=ttl_s, token=leases.pop(key, ""), fills=fills)
            for key, raw, state in zip(keys, reading.slots, found, strict=True)
            if state is None
        ]
        self._trips.release(leases)  # of slots that expired between the read and the lease
        try:
            loaded = await self._loads.run(wanted) if wanted else []
        except SlotFilled:
            return await self._read_part(keys, None, stale_s, ttl_s)
        except SourceUnavailable as error:
            return self._serve_unverified(keys, reading, stale_s, error)
        return self._merge(found, loaded, proven=bool(reading.epoch))

    def _trusted_state(self, raw: bytes | None, key: str, reading: Reading) -> State | None:
        return slot.decode(raw, key, reading.epoch, reading.incarnation) if raw is not None and reading.epoch else None

    def _merge(self, found: Sequence[State | None], loaded: Sequence[Loaded], *, proven: bool) -> list[Read]:
        self._stats.hits += len(found) - len(loaded)
        if proven:
            self._stats.misses += len(loaded)
        else:
            self._stats.bypasses += len(loaded)
        rest = iter(loaded)
        return [Read(state, Status.HIT) if state is not None else _read_of(next(rest), proven=proven) for state in found]

    async def _bypass(self, keys: Sequence[str], detail: str) -> list[Read]:
        self._stats.bypasses += len(keys)
        loaded = await self._loads.run([Load(key, vacant=False) for key in keys])
        return [Read(entry.state, Status.BYPASS, detail) for entry in loaded]

    async def _refresh(self, keys: Sequence[str], ttl_s: int | None) -> list[Read]:
        self._stats.refreshes += len(keys)
        loaded = await self._loads.run([Load(key, vacant=False, refresh=True, ttl_s=ttl_s) for key in keys])
        return [Read(entry.state, Status.REFRESHED_STORED if entry.stored else Status.REFRESHED) for entry in loaded]

    def _serve_unverified(self, keys: Sequence[str], reading: Reading, stale_s: int, error: SourceUnavailable) -> list[Read]:
        """Return the stored states, flagged, if the last proof is recent enough (R9); otherwise raise ``error``."""
        allowed_s = max(stale_s, self._config.serve_unverified_s)
        proven_at, incarnation = self._trips.last_proof(keys[0])
        if not allowed_s or proven_at is None or self._clock() - proven_at > allowed_s:
            raise error
        reads = []
        for key, raw in zip(keys, reading.slots, strict=True):
            trusted = self._trusted_state(raw, key, reading)
            # The state must be of this process's own history, because another database on this Redis may have that key, and
            # of the incarnation that was proven last: a void one may be much older than the proof.
            state = trusted or slot.decode(raw or b"", key, self._history.epoch, incarnation)
            if state is None:
                raise SourceUnavailable("the database cannot be reached and the cache holds no copy")
            reads.append(Read(state, Status.HIT) if trusted else Read(state, Status.UNVERIFIED, UNVERIFIED))
        unverified = sum(read.status is Status.UNVERIFIED for read in reads)
        self._stats.unverified += unverified
        self._stats.hits += len(reads) - unverified
        return reads


def _read_of(loaded: Loaded, *, proven: bool) -> Read:
    if not proven:
        return Read(loaded.state, Status.BYPASS, UNPROVEN)
    return Read(loaded.state, Status.STORED if loaded.stored else Status.MISS)
