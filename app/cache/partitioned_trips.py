"""Round trips to a namespace that is divided into partitions, on one or more nodes.

Requests for partitions on one node share a round trip, and each node has batches of its own, so one that hangs delays no round
trip to another. A read, a publish and a proof are of one partition. Its fence vouches for its slots, and for no others.
"""

import asyncio
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from typing_extensions import override

from .config import CacheConfig
from .errors import LeasesInDoubt, StoreUnavailable
from .filled_slots import FilledSlots
from .history import History
from .partition_ports import NodeStore, PartitionedStore
from .partitions import Partitions
from .ports import Clock, Outcome, Publication, Published, Reading, State, Store
from .round_trips import BatchedTrips, RoundTrips, leases_of, payload_bytes
from .stats import Stats
from .tracing import UNTRACED, Place, Tracer, Unit

Answer = TypeVar("Answer")
LeaseCall = asyncio.Task[dict[str, str] | None]
"""A call that takes leases."""
LATE_S = 0.05
"""How long after the first answer of several nodes the others may come without being late.

A round trip takes a millisecond, and a node that hangs takes a deadline.
"""
READS_WHEN_LOST = 4
"""The largest number of queued reads that are told at once that their node is lost.

Reads that wait behind the batch under way may be many, and each costs a load and an answer without the fast path. Were all of
them told at once, the reads of other nodes would wait until the last is answered. The batch under way itself is told at once.
"""


class _NodeTrips(BatchedTrips):
    """The round trips to one node. Every item of a batch of reads or publishes is of one partition, and is not empty."""

    def __init__(
        self,
        node: NodeStore,
        config: CacheConfig,
        stats: Stats,
        history: History,
        clock: Clock,
        *,
        partitions: Partitions,
        proofs: dict[int, tuple[float, str]],
        tracer: Tracer,
        filled: FilledSlots,
    ) -> None:
        super().__init__(config, stats, history, clock, tracer=tracer, filled=filled, weight=self._weight_of)
        self._least_weight_when_lost = config.batch_keys // READS_WHEN_LOST
        self._lost = False
        """Whether the last read got no answer."""
        self._node = node
        self._partitions = partitions
        self._proofs = proofs

    async def drop(self, key: str) -> None:
        """Empty one slot. Raises ``StoreUnavailable``."""
        self.filled.discard(key)
        with self._tracer.step("drop", Place.STORE):
            await self._definite(self._node.drop(self._partitions.of(key), key))

    async def fenced(self, partitions: Sequence[int]) -> bool:
        """Return whether every one of these partitions has a live fence. Raises ``StoreUnavailable``."""
        began = self._clock()
        readings = await self._definite(self._node.read([(partition, (), ()) for partition in partitions]))
        return all(
            not isinstance(reading, StoreUnavailable) and bool(self._judged(partition, reading, began).epoch)
            for partition, reading in zip(partitions, readings, strict=True)
        )

    @override
    async def _send_reads(self, batch: Sequence[Sequence[str]]) -> Sequence[Reading | Exception]:
        wanted = [key for keys in batch for key in keys]
        others = self.filled.others(wanted)
        lease = set(self._vacancies.expected(wanted, others))
        of = self._partitions.of
        # Each item is a request of its own, with its own fence: nearly every one is of another partition, and to cut the batch
        # by partition would cost more than to send a fence twice.
        requests = [(of(keys[0]), keys, _take_own(lease, keys) if lease else ()) for keys in batch]
        began = self._clock()
        try:
            readings = await self._definite(self._node.read(requests))
        except StoreUnavailable as error:
            self._lost = True
            # Raising it would put the batcher's frame, which holds the futures, into the traceback: a reference cycle.
            return [error] * len(batch)
        self._lost = False
        self._stats.store_read.observe(self._clock() - began)
        results: list[Reading | Exception] = []
        slots: list[bytes | None] = []
        for (partition, _, _), reading in zip(requests, readings, strict=True):
            if isinstance(reading, StoreUnavailable):
                results.append(reading)
                if isinstance(reading, LeasesInDoubt):
                    self._owe(reading.tokens)
            else:
                slots += reading.slots
                results.append(self._judged(partition, reading, began))
        self._release_owed()
        if len(slots) < len(wanted):  # a partition was refused
            wanted = [key for keys, result in zip(batch, results, strict=True) if isinstance(result, Reading) for key in keys]
            others = self.filled.others(wanted)
        self._vacancies.observe(wanted, others, slots)
        return results

    def _weight_of(self, keys: Sequence[str]) -> int:
        """Return a read's weight.

        While the node is lost, a read weighs more, so that a batch has at most ``READS_WHEN_LOST`` of them. It is lost from the
        first batch without an answer until the next answer.
        """
        return max(len(keys), self._least_weight_when_lost) if self._lost else len(keys)

    @override
    def _note_proof(self, partition: int, reading: Reading, read_at: float) -> None:
        self._proofs[partition] = read_at, reading.incarnation

    @override
    async def _send_leases(self, batch: Sequence[Sequence[str]]) -> Sequence[dict[str, str]]:
        wanted = list(dict.fromkeys(key for keys in batch for key in keys))
        requests = [(p, [wanted[place] for place in own]) for p, own in self._partitions.cut(wanted).items()]
        taken: dict[str, str] = {}
        for answer in await self._definite(self._node.lease(requests)):
            if not isinstance(answer, StoreUnavailable):
                taken |= answer
        return leases_of(batch, taken)

    @override
    async def _release(self, tokens: dict[str, str]) -> None:
        keys = list(tokens)
        requests = [(p, {keys[place]: tokens[keys[place]] for place in own}) for p, own in self._partitions.cut(keys).items()]
        await self._node.release(requests)

    @override
    async def _send_publishes(self, batch: Sequence[Sequence[Publication]]) -> Sequence[Published | Exception]:
        places = self._partitions.cut([item[0].state.key for item in batch])
        began = self._clock()
        answers = await self._definite(
            self._node.publish([(p, [one for place in own for one in batch[place]]) for p, own in places.items()])
        )
        self._stats.store_publish.observe(self._clock() - began)
        results: dict[int, Published | Exception] = {}
        for own, answer in zip(places.values(), answers, strict=True):
            if isinstance(answer, StoreUnavailable):
                results |= dict.fromkeys(own, answer)
                continue
            items = [batch[place] for place in own]
            self._stats.payload_bytes += sum(payload_bytes(publication) for item in items for publication in item)
            results |= zip(own, self._shares(items, answer), strict=True)
        return [results[place] for place in range(len(batch))]


def _take_own(lease: set[str], keys: Sequence[str]) -> list[str]:
    """Take those of ``keys`` that are to be leased out of ``lease``: only the first request for a key gets its token."""
    own = [key for key in keys if key in lease]
    lease.difference_update(own)
    return own


class PartitionedTrips:
    """The round trips of one process to a namespace that is divided into partitions, with the methods of ``RoundTrips``."""

    def __init__(
        self,
        store: PartitionedStore,
        config: CacheConfig,
        stats: Stats,
        history: History,
        clock: Clock,
        *,
        tracer: Tracer = UNTRACED,
    ) -> None:
        self.partitions = store.partitions
        self.filled = FilledSlots(config.warm_keys)
        self._store = store
        self._config = config
        self._stats = stats
        self._history = history
        self._clock = clock
        self._tracer = tracer
        self._proofs: dict[int, tuple[float, str]] = {}
        """When each partition was last read under a fence that is trusted, and the fence's incarnation."""
        self._trips: dict[NodeStore, _NodeTrips] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._late: set[LeaseCall] = set()

    def submit_read(self, keys: Sequence[str], unit: Unit | None = None) -> "asyncio.Future[Reading]":
        """Put a read of one partition into the next batch to its node. Raises ``Overloaded``."""
        trips = self._trips_of(self.partitions.of(keys[0]))
        if trips is None:
            future: asyncio.Future[Reading] = asyncio.get_running_loop().create_future()
            future.set_exception(_unknown())
            future.exception()  # marks it as retrieved
            return future
        return trips.submit_read(keys, unit)

    async def read(self, keys: Sequence[str]) -> Reading:
        """Read slots of one partition for the present unit. Raises ``StoreUnavailable``, ``Overloaded``."""
        return await self._required(self.partitions.of(keys[0])).read(keys)

    async def lease(self, keys: Sequence[str]) -> dict[str, str] | None:
        """Take leases on empty slots; return their tokens, or ``None`` when no node answered.

        The leases of a node that is late are given back when they come: nobody needs them, and a write must not wait for them.
        """
        if not self.several_nodes and keys:
            trips = self._trips_of(self.partitions.of(keys[0]))
            return None if trips is None else await trips.lease(keys)
        taking = self.begin_leases(keys)
        on_time: set[LeaseCall] = set()
        try:
            on_time = await those_on_time(taking)
        finally:  # also if the caller is cancelled
            for task in taking:
                if task not in on_time:
                    self._late.add(task)
                    task.add_done_callback(self._give_back_late)
        answers = [task.result() for task in on_time]
        taken = {key: token for answer in answers for key, token in (answer or {}).items()}
        return taken if not keys or any(answer is not None for answer in answers) else None

    @property
    def several_nodes(self) -> bool:
        """Whether the keys are on more than one node."""
        return len(self._store.nodes) > 1

    def begin_leases(self, keys: Sequence[str]) -> dict[LeaseCall, list[str]]:
        """Begin to take leases; return the call to each node with its keys. Keys whose node is not known are left out."""
        return {asyncio.create_task(trips.lease(own)): own for trips, own in self._cut(keys).items() if trips is not None}

    def by_node(self, keys: Sequence[str]) -> Sequence[list[str]]:
        """Return keys in groups, none of which depends on the node of another one."""
        return list(self._cut(keys).values())

    async def publish(self, publications: Sequence[Publication]) -> Published | None:
        """Put states into their slots and return the outcomes, or ``None`` when no node gave a definite answer.

        The outcome is ``UNTRUSTED`` in a partition whose node gave none. The leases of that partition are given back.
        """
        parts = self.partitions.cut([publication.state.key for publication in publications])
        items = {partition: [publications[place] for place in places] for partition, places in parts.items()}
        answers = await _all(*(self._publish(partition, own) for partition, own in items.items()))
        if publications and not any(answers):
            return None
        outcomes = dict.fromkeys(range(len(publications)), Outcome.UNTRUSTED)
        unproven = set()
        for (partition, places), published in zip(parts.items(), answers, strict=True):
            if published is None or not published.proven:
                unproven.add(self.partitions.rows[partition])
            if published is None:
                self.release({one.state.key: one.token for one in items[partition] if one.token})
            else:
                outcomes |= zip(places, published.outcomes, strict=True)
        return Published(tuple(outcomes.values()), not unproven, frozenset(unproven))

    def release(self, tokens: Mapping[str, str]) -> None:
        """Begin to give leases back without waiting for it. A lease that is not given back expires."""
        keys = list(tokens)
        for partition, places in self.partitions.cut(keys).items():
            if (trips := self._trips_of(partition)) is not None:
                trips.release({keys[place]: tokens[keys[place]] for place in places})

    async def drop(self, key: str) -> None:
        """Empty one slot. Raises ``StoreUnavailable``."""
        await self._required(self.partitions.of(key)).drop(key)

    async def proven(self) -> bool:
        """Return whether every partition has a live fence. Raises ``StoreUnavailable``."""
        by_trips: dict[_NodeTrips, list[int]] = {}
        for partition in range(self.partitions.number):
            by_trips.setdefault(self._required(partition), []).append(partition)
        began = self._clock()
        proven = all(await _all(*(trips.fenced(own) for trips, own in by_trips.items())))
        if proven:  # the age of the proof is that of the oldest
            self._stats.last_proven = began
        return proven

    def last_proof(self, key: str) -> tuple[float | None, str]:
        """Return when a key's partition was last read under a fence that is trusted, and the fence's incarnation."""
        return self._proofs.get(self.partitions.of(key), (None, ""))

    def rows_of(self, states: Sequence[State]) -> frozenset[str] | None:
        """Return the audit rows whose readers may see older states; ``None`` for all."""
        return frozenset(self.partitions.rows[self.partitions.of(state.key)] for state in states) or None

    async def aclose(self) -> None:
        """Finish the round trips that were accepted."""
        if self._late:
            await asyncio.wait(self._late)
        for trips in list(self._trips.values()):
            await trips.aclose()
        await asyncio.gather(*self._ending)

    def _cut(self, keys: Sequence[str]) -> "dict[_NodeTrips | None, list[str]]":
        """Return keys by the node that has them; ``None`` has those whose node is not known."""
        by_trips: dict[_NodeTrips | None, list[str]] = {}
        for partition, places in self.partitions.cut(keys).items():
            by_trips.setdefault(self._trips_of(partition), []).extend(keys[place] for place in places)
        return by_trips

    def _give_back_late(self, task: LeaseCall) -> None:
        self._late.discard(task)
        if not task.cancelled() and task.exception() is None:
            self.release(task.result() or {})

    async def _publish(self, partition: int, publications: Sequence[Publication]) -> Published | None:
        trips = self._trips_of(partition)
        if trips is None:
            self._stats.publish_failures += 1
            return None
        return await trips.publish(publications)

    def _required(self, partition: int) -> _NodeTrips:
        if (trips := self._trips_of(partition)) is None:
            raise _unknown()
        return trips

    def _trips_of(self, partition: int) -> _NodeTrips | None:
        """Return the batches to the node of a partition, or ``None`` if no node is known to have it."""
        node = self._store.node(partition)
        if node is None:
            return None
        trips = self._trips.get(node)
        if trips is None:
            self._forget_nodes()
            trips = self._trips[node] = _NodeTrips(
                node,
                self._config,
                self._stats,
                self._history,
                self._clock,
                partitions=self.partitions,
                proofs=self._proofs,
                tracer=self._tracer,
                filled=self.filled,
            )
        return trips

    def _forget_nodes(self) -> None:
        """End the batches of nodes that have no partition any more."""
        present = set(self._store.nodes)
        for node in [node for node in self._trips if node not in present]:
            ending = asyncio.create_task(self._trips.pop(node).aclose())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)


Trips = RoundTrips | PartitionedTrips


def trips_to(
    store: Store | PartitionedStore, config: CacheConfig, stats: Stats, history: History, clock: Clock, *, tracer: Tracer
) -> Trips:
    """Return the round trips to a store."""
    if isinstance(store, PartitionedStore):
        return PartitionedTrips(store, config, stats, history, clock, tracer=tracer)
    return RoundTrips(store, config, stats, history, clock, tracer=tracer)


async def those_on_time(
    calls: "Collection[asyncio.Task[Answer]]", *, limit_from_start: bool = False
) -> "set[asyncio.Task[Answer]]":
    """Return the calls to nodes that have ended, once all have, or at most ``LATE_S`` after the first one.

    The first one may take as long as it needs. If ``limit_from_start``, the time begins at once, because other reads of the
    batch need none of these calls.
    """
    ended: set[asyncio.Task[Answer]] = set()
    rest = set(calls)
    if len(rest) > 1 and not limit_from_start:
        ended, rest = await asyncio.wait(rest, timeout=LATE_S, return_when=asyncio.FIRST_COMPLETED)
    if rest:
        ended |= (await asyncio.wait(rest, timeout=LATE_S))[0]
    return ended


async def _all(*calls: Coroutine[Any, Any, Answer]) -> list[Answer]:
    """Await calls that run at the same time. A single one needs no task."""
    return [await calls[0]] if len(calls) == 1 else await asyncio.gather(*calls)


def _unknown() -> StoreUnavailable:
    return StoreUnavailable("no node is known to have this partition")
