"""Loads from the source, and the fills of slots from them (R2).

At most one load per key runs and one waits (G5). Requests share a load only until it is sent (R7). The slots of one batch are
filled while the next batch is loaded. A load waits while the slot of its own key is filled, because whoever reads that slot in
the meantime would need one more load if this one had gone. Readers whose slot was filled after they had read it, and before
their load is sent, read it once more instead (``SlotFilled``), in a read that all of them share.

A batch has keys of all nodes of the store. A node that hangs delays only its own: each node is asked for its leases by itself,
and what it is late with is loaded apart. Each node's slots are filled by themselves, too.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from .batcher import Batcher
from .config import CacheConfig
from .errors import Overloaded
from .history import History
from .partitioned_trips import LeaseCall, Trips, those_on_time
from .ports import Clock, Outcome, Publication, Source, State
from .stats import Stats
from .tracing import UNTRACED, Place, Tracer

_REMEMBERED = 10_000
"""Number of filled slots that are remembered. One that is forgotten costs a load."""


@dataclass(frozen=True, slots=True)
class Load:
    """A request for a key's row."""

    key: str
    vacant: bool
    """Whether the slot was seen empty, so that a lease should be tried."""
    refresh: bool = False
    """Whether an older state in the slot should be replaced."""
    ttl_s: int | None = None
    """Life of the slot that this load fills; ``None`` for the namespace's."""
    token: str = ""
    """The lease that was taken when the slot was read."""
    fills: int | None = None
    """How many fills had ended when the slot was asked for; ``None`` if the row is to be loaded in any case."""


class SlotFilled(Exception):
    """The slot was filled after it was read, so that it can be read again."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The state of a row, and whether it was stored in its slot."""

    state: State
    stored: bool


class Row(NamedTuple):
    """A loaded state, and the fill that its slot is part of, if any."""

    state: State
    fill: "asyncio.Task[set[str]] | None"
    """The fill of the slots of its node, whose result has the keys that were stored."""

    async def filled(self) -> Loaded:
        """Return the state once the fill has ended."""
        stored = await asyncio.shield(self.fill) if self.fill else ()
        return Loaded(self.state, self.state.key in stored)


class LateRow(NamedTuple):
    """A row that is loaded apart from its batch, because its lease was late."""

    key: str
    load: "asyncio.Task[dict[str, Row]]"

    async def filled(self) -> Loaded:
        """Return the state once the fill has ended. Raises ``SourceUnavailable``."""
        return await (await asyncio.shield(self.load))[self.key].filled()


class Loads:
    """One process's loads."""

    def __init__(
        self,
        source: Source,
        trips: Trips,
        config: CacheConfig,
        stats: Stats,
        history: History,
        *,
        clock: Clock,
        tracer: Tracer = UNTRACED,
    ) -> None:
        self._source = source
        self._trips = trips
        self._stats = stats
        self._history = history
        self._clock = clock
        self._tracer = tracer
        self._fills: set[asyncio.Task[set[str]]] = set()
        self._filling: set[str] = set()
        self._late_loads: set[asyncio.Task[dict[str, Row]]] = set()
        self._late: set[str] = set()
        self.fills = 0
        """Number of fills that have ended."""
        self._filled: OrderedDict[str, int] = OrderedDict()
        """The slots that were filled last, and by which fill."""
        self._batches: Batcher[Load, Row | LateRow] = Batcher(
            self._send,
            group_key=lambda load: load.key,
            max_weight=config.batch_keys,
            queue_limit=config.queue_limit,
            joined=partial(tracer.joined, "cache.load"),
            held=lambda load: load.key in self._filling or load.key in self._late,
            left=lambda load: self._give_back((load,)),
        )

    async def run(self, loads: Sequence[Load]) -> list[Loaded]:
        """Load rows; return what was loaded, in the order of ``loads``.

        Raises ``SourceUnavailable``, ``Overloaded``, and ``SlotFilled`` if a load was spared.
        """
        unit = self._tracer.unit()
        futures: list[asyncio.Future[Row | LateRow]] = []
        try:
            for load in loads:
                futures.append(self._batches.submit(load, unit))  # noqa: PERF401 - the loads after the refused one are needed
        except Overloaded:
            self._give_back(loads[len(futures) :])
            raise
        rows = [await futures[0]] if len(futures) == 1 else await asyncio.gather(*futures)
        return [await row.filled() for row in rows]

    def refill(self, keys: Iterable[str]) -> None:
        """Begin to load keys whose slots were recorded as filled, but were evicted, or deleted by an audit.

        A writer cannot store its state in an empty slot, but a load that begins now can fill it. No reader waits for it.
        """
        for key in keys:
            with suppress(Overloaded):
                self._batches.submit(Load(key, vacant=True))
                self._stats.refills += 1

    def _give_back(self, loads: Iterable[Load]) -> None:
        """Release the leases of loads that will not run."""
        self._trips.release({load.key: load.token for load in loads if load.token})

    async def aclose(self) -> None:
        """Finish the loads that were accepted."""
        await self._batches.aclose()
        while under_way := self._fills | self._late_loads:
            await asyncio.wait(under_way)
            await self._batches.aclose()  # of what waited for these

    async def _send(self, batch: Sequence[Load]) -> "Sequence[Row | LateRow | Exception]":
        spared = [self._is_spared(load) for load in batch]
        needed = [load for load, is_spared in zip(batch, spared, strict=True) if not is_spared]
        try:
            rows: Sequence[Row | LateRow | Exception] = await self._lease_and_load(needed) if needed else ()
        except Exception as error:  # noqa: BLE001 - any error is of those that are loaded
            rows = [error] * len(needed)
        rest = iter(rows)
        return [SlotFilled() if is_spared else next(rest) for is_spared in spared]

    def _is_spared(self, load: Load) -> bool:
        """Return whether the slot can be read again instead."""
        return load.fills is not None and not load.token and self._filled.get(load.key, 0) > load.fills

    async def _lease_and_load(self, batch: Sequence[Load]) -> "Sequence[Row | LateRow]":
        """Load a batch by one statement, but for keys whose node is late with their leases: these do not delay the others."""
        tokens = {load.key: load.token for load in batch if load.token}
        wanted = dict.fromkeys(load.key for load in batch if load.vacant and load.key not in tokens)
        late: dict[str, asyncio.Task[dict[str, Row]]] = {}
        # The lease is taken before the load's snapshot: a writer that commits after the snapshot finds the lease and deletes
        # it, so this load cannot fill the slot with old data.
        if not self._trips.several_nodes:
            tokens |= await self._trips.lease(list(wanted)) or {}
        else:
            taking = self._trips.begin_leases(list(wanted))
            on_time = await those_on_time(taking, limit_from_start=any(load.key not in wanted for load in batch))
            for lease, own in taking.items():
                if lease in on_time:
                    tokens |= lease.result() or {}
                else:
                    late |= dict.fromkeys(own, self._begin_late([load for load in batch if load.key in own], lease))
        rows = await self._load([load for load in batch if load.key not in late], tokens)
        return [LateRow(load.key, late[load.key]) if load.key in late else rows[load.key] for load in batch]

    async def _load(self, batch: Sequence[Load], tokens: dict[str, str]) -> dict[str, Row]:
        """Load rows under the leases that were taken, and begin to fill their slots."""
        keys = list(dict.fromkeys(load.key for load in batch))
        if not keys:
            return {}
        began = self._clock()
        try:
            with self._tracer.step("load", Place.SOURCE):
                states = await self._source.load(keys)
            self._history.record(states[keys[0]].epoch, began)
        except BaseException:
            self._trips.release(tokens)
            raise
        self._stats.source_load.observe(self._clock() - began)
        self._stats.loads += len(keys)
        refreshed = {load.key for load in batch if load.refresh}
        ttls_s: dict[str, int] = {}
        for load in batch:
            if load.ttl_s is not None:  # of those that share a load, the longest counts
                ttls_s[load.key] = max(load.ttl_s, ttls_s.get(load.key, 0))
        rows = {key: Row(states[key], None) for key in keys}
        for part in self._trips.by_node([key for key in keys if key in tokens or key in refreshed]):
            fills = [Publication(states[key], tokens.get(key, ""), ttls_s.get(key)) for key in part]
            fill = self._begin_fill(fills)
            rows |= {key: Row(states[key], fill) for key in part}
        return rows

    def _begin_late(self, loads: Sequence[Load], lease: LeaseCall) -> "asyncio.Task[dict[str, Row]]":
        """Begin to load rows as soon as their leases are there, or cannot be had. Other loads of their keys wait meanwhile."""
        keys = {load.key for load in loads}

        async def load() -> dict[str, Row]:
            try:
                return await self._load(loads, await lease or {})
            finally:
                self._late -= keys
                self._batches.resume()

        self._late |= keys
        late = asyncio.create_task(load())
        self._late_loads.add(late)
        late.add_done_callback(self._end_late)
        return late

    def _end_late(self, late: "asyncio.Task[dict[str, Row]]") -> None:
        self._late_loads.discard(late)
        if not late.cancelled():
            late.exception()  # marks it as retrieved, in case that nobody waits for its rows

    def _begin_fill(self, fills: Sequence[Publication]) -> "asyncio.Task[set[str]]":
        fill = asyncio.create_task(self._fill(fills))
        filling = {publication.state.key for publication in fills}
        self._filling |= filling
        self._fills.add(fill)
        fill.add_done_callback(partial(self._end_fill, filling))
        return fill

    def _end_fill(self, filled: set[str], fill: "asyncio.Task[set[str]]") -> None:
        self._fills.discard(fill)
        self._filling -= filled
        self._batches.resume()
        # A refill has no caller who would see the error.
        if not fill.cancelled() and fill.exception() is not None:
            self._stats.unexpected += 1

    async def _fill(self, fills: Sequence[Publication]) -> set[str]:
        """Publish loaded states; return the keys whose state was stored."""
        published = await self._trips.publish(fills)
        if published is None:
            self._trips.release({fill.state.key: fill.token for fill in fills if fill.token})
            return set()
        stored = {fill.state.key for fill, outcome in zip(fills, published.outcomes, strict=True) if outcome is Outcome.STORED}
        self._stats.fills += len(stored)
        self.fills += 1
        for key in stored:
            self._filled[key] = self.fills
            self._filled.move_to_end(key)
        while len(self._filled) > _REMEMBERED:
            self._filled.popitem(last=False)
        return stored
