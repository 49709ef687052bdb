"""The shipped component with one guard off."""

# ruff: noqa: ARG002 - a guard that is off looks at nothing

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Any

from app.cache import slot
from app.cache.batcher import Batcher
from app.cache.loads import Load, Loaded, Loads
from app.cache.policies import WritePolicy
from app.cache.ports import Publication, Published, Reading, State
from app.cache.round_trips import Leases, Reply, RoundTrips
from app.cache.tracing import Unit
from app.cache.write_through import Acknowledgement, Read, WriteThrough


class AcknowledgesAtOnce(WriteThrough):
    """Nothing settles."""

    async def settle(self, acknowledgement: Acknowledgement) -> None:
        return


class AroundAnswersAtOnce(WriteThrough):
    """A write that leaves its slots to the audit does not settle."""

    async def _prove(self, states: Sequence[State], leases: Leases, ttl_s: int | None) -> Published:
        if leases.policy is WritePolicy.AROUND:
            return Published((), proven=True)
        return await super()._prove(states, leases, ttl_s)


class TrustsAnyEpoch(WriteThrough):
    """An entry of another epoch than the fence's is believed."""

    def _trusted_state(self, raw: bytes | None, key: str, reading: Reading) -> State | None:
        return slot.decode(raw, key, slot.hash_in(raw), reading.incarnation) if raw is not None and reading.epoch else None


class TrustsAnyIncarnation(WriteThrough):
    """An entry of another incarnation than the fence's is believed."""

    def _trusted_state(self, raw: bytes | None, key: str, reading: Reading) -> State | None:
        return slot.decode(raw, key, reading.epoch, slot.incarnation_in(raw)) if raw is not None and reading.epoch else None


class TrustsWithoutFence(WriteThrough):
    """An entry is believed without a fence."""

    def _trusted_state(self, raw: bytes | None, key: str, reading: Reading) -> State | None:
        if raw is None:
            return None
        return slot.decode(raw, key, reading.epoch or slot.hash_in(raw), reading.incarnation or slot.incarnation_in(raw))


class JoinsLoadUnderWay(WriteThrough):
    """A read that finds a load of its key under way takes that load's result."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._loads = _JoinsLoads(arguments[1], self._trips, self._config, self._stats, self._history, clock=self._clock)


class _JoinsLoads(Loads):
    async def run(self, loads: Sequence[Load]) -> list[Loaded]:
        running: dict[str, asyncio.Task[Loaded]] = self.__dict__.setdefault("running", {})
        for load in loads:
            if load.key not in running or running[load.key].done():
                running[load.key] = asyncio.ensure_future(self._whole(load))
        return list(await asyncio.gather(*(asyncio.shield(running[load.key]) for load in loads)))

    async def _whole(self, load: Load) -> Loaded:
        return await (await self._batches.submit(load)).filled()


class JoinsReadUnderWay(WriteThrough):
    """A read that finds a read of its keys under way takes that one's result."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        limit = self._config.batch_keys
        assert isinstance(self._trips, RoundTrips)
        self._trips.reads = _JoinsUnderWay(self._trips._send_reads, weight=len, max_weight=limit, queue_limit=limit)


class _JoinsUnderWay(Batcher[Sequence[str], Reading]):
    def submit(self, item: Sequence[str], unit: Unit | None = None) -> "asyncio.Future[Reading]":
        running: dict[tuple[str, ...], asyncio.Future[Reading]] = self.__dict__.setdefault("running", {})
        future = running.get(tuple(item))
        if future is None or future.done():
            future = running[tuple(item)] = super().submit(item, unit)
        return future


class KeepsReadings(WriteThrough):
    """A reading that was handed on with a hit answers later requests for its key, too."""

    async def read_many(
        self,
        keys: Sequence[str],
        *,
        refresh: bool = False,
        stale_s: int = 0,
        reading: Reading | None = None,
        ttl_s: int | None = None,
    ) -> list[Read]:
        kept: dict[str, Reading] = self.__dict__.setdefault("kept", {})
        if reading is not None and self._trusted_state(reading.slots[0], keys[0], reading):
            kept[keys[0]] = reading
        elif len(keys) == 1:
            reading = kept.get(keys[0], reading)
        return await super().read_many(keys, refresh=refresh, stale_s=stale_s, reading=reading, ttl_s=ttl_s)


class SendsLoadsApart(WriteThrough):
    """Every request that misses sends a load of its own at once."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._loads = _SendsApart(arguments[1], self._trips, self._config, self._stats, self._history, clock=self._clock)


class _SendsApart(Loads):
    async def run(self, loads: Sequence[Load]) -> list[Loaded]:
        return [await row.filled() for row in await self._lease_and_load(loads)]


class TakesLaterLeases(WriteThrough):
    """A load fills with the lease that came with a later reading."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._loads = _TakesLater(arguments[1], self._trips, self._config, self._stats, self._history, clock=self._clock)


class _TakesLater(Loads):
    async def run(self, loads: Sequence[Load]) -> list[Loaded]:
        later: dict[str, str] = self.__dict__.setdefault("later", {})
        later.update({load.key: load.token for load in loads if load.token})
        return await super().run(loads)

    async def _fill(self, fills: Sequence[Publication]) -> set[str]:
        later: dict[str, str] = self.__dict__.setdefault("later", {})
        fills = [replace(fill, token=later.get(fill.state.key, fill.token)) for fill in fills]
        return await super()._fill(fills)


class ListsErrorsOfTheStore(WriteThrough):
    """Only errors that somebody listed count as no reply of the store."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._trips = _ListsErrors(arguments[0], self._config, self._stats, self._history, self._clock)


class _ListsErrors(RoundTrips):
    async def _definite(self, call: Awaitable[Reply]) -> Reply:
        return await call
