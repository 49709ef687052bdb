"""What clients do: read, write, delete, retry, and record what they were told."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from app.cache.errors import NotSettled, SourceUnavailable, StoreUnavailable
from app.cache.ports import Absent, State
from app.cache.write_through import Acknowledgement, Status, WriteThrough
from app.cache.write_through import Read as Answer
from tests.fakes.rows import Change, Row, table_of
from tests.fakes.shared_audit import MemorySession
from tests.fakes.source import Committed, CommitUnknown, transact
from tests.harness.checker import Read, Write
from tests.simulation.parts import read_as_served
from tests.simulation.world import POSTGRES_DEADLINE_S, Attempt, Process, World

READ_BOUND_S = 5.0
WRITE_BOUND_S = 15.0
LATE, LATE_S = 4, 0.02
"""One read in so many comes to its endpoint so late that its slot may have been filled meanwhile."""


class Client:
    """One client of one process; it dies with it."""

    def __init__(self, world: World, process: Process, keys: Sequence[str], until: float, think_s: float) -> None:
        self._world = world
        self._process = process
        self._keys = keys
        self._until = until
        self._think_s = think_s

    async def run(self) -> None:
        """Act until the time is over."""
        chance, loop = self._world.chance, self._world.loop
        while loop.time() < self._until:
            await asyncio.sleep(chance.random() * 2 * self._think_s)
            await self.act()

    async def act(self) -> None:
        """Do one thing, chosen by chance."""
        chance = self._world.chance
        share = chance.random()
        if share < 0.5:
            await self.read(chance.choice(self._keys))
        elif share < 0.56:
            table = table_of(chance.choice(self._keys))
            await self.read_many([key for key in self._keys if table_of(key) == table])
        elif share < 0.62:
            await self.read(chance.choice(self._keys), refresh=True)
        elif share < 0.65:
            await self.drop(chance.choice(self._keys))
        else:
            await self.write(self._next_attempt())

    async def read(self, key: str, *, refresh: bool = False) -> Answer | None:
        """Read one key and record it."""
        answers = await self._timed("read", READ_BOUND_S, lambda: self._read((key,), refresh=refresh))
        return answers[0] if answers else None

    async def read_many(self, keys: Sequence[str]) -> None:
        """Read several keys and record them."""
        await self._timed("read", READ_BOUND_S, lambda: self._read(keys, refresh=False))

    async def drop(self, key: str) -> None:
        """Drop an entry."""
        try:
            await self._process.cache_of(key).drop(key)
        except StoreUnavailable:
            self._world.history.counts["drop failed"] += 1

    async def write(self, attempt: Attempt) -> None:
        """Try a write, or try it again, and record it."""
        await self._timed("write", WRITE_BOUND_S, lambda: self._write(attempt))

    async def _read(self, keys: Sequence[str], *, refresh: bool) -> list[Answer]:
        world, history, process = self._world, self._world.history, self._process
        called = history.tick()
        try:
            if refresh or len(keys) > 1:
                answers = await process.cache_of(keys[0]).read_many(keys, refresh=refresh)
            else:
                late_s = 0.0 if called % LATE else LATE_S
                answers = [await read_as_served(process.cache_of(keys[0]), keys[0], late_s=late_s)]
        except SourceUnavailable as error:
            history.counts["read failed"] += 1
            if not world.postgres_is_troubled:
                world.broken(f"G3: a read failed although PostgreSQL is well: {error!r}")
            return []
        returned = history.tick()
        for key, answer in zip(keys, answers, strict=True):
            state = answer.state
            flagged = answer.status is Status.UNVERIFIED
            world.note(process.name, f"read {key} [{called}]: {answer.status} {state.version} {state.epoch[:4]}")
            history.reads.append(
                Read(
                    key, called, returned, state.version, flagged, answer.status.value, world.order(state.epoch), table_of(key)
                )
            )
            if state.key != key or not world.committed(state):
                world.broken(f"a read of {key} invented {state}")
        return answers

    async def _write(self, attempt: Attempt) -> None:  # noqa: C901 - one branch for each way in which a write ends
        world, history, process = self._world, self._world.history, self._process
        called = history.tick()
        states: list[State] = []
        attempt.process = process
        world.note(process.name, f"write {attempt.mark} of {','.join(attempt.keys)} [{called}]")

        async def run() -> Committed:
            replayed = world.postgres.applied(attempt.mark)
            changed: set[str] = set()
            states.extend(await self._transact(attempt, changed))
            what = "replayed" if replayed else "committed" if changed else "unchanged"
            history.counts[f"writes {what}"] += 1
            world.note(process.name, f"{what} {attempt.mark}: {' '.join(f'{state.key}={state.version}' for state in states)}")
            if replayed:
                return Committed(world.parts.replayed(states))
            return Committed(states if changed else world.parts.unchanged(states))

        try:
            if len({table_of(key) for key in attempt.keys}) > 1:
                history.counts["writes over both namespaces"] += 1
                states.extend(await self._write_both(attempt))
            else:
                cache = process.cache_of(attempt.keys[0])
                _, acknowledgement = await cache.write(attempt.keys, run, policy=world.draw_policy())
                await self._settle(cache, acknowledgement)
        except (SourceUnavailable, CommitUnknown) as error:
            world.note(process.name, f"write {attempt.mark}: {type(error).__name__}")
            history.counts[f"write {type(error).__name__}"] += 1
            attempt.process = None
            if not world.writes_may_fail:
                world.broken(f"G3: a write failed although PostgreSQL is well: {error!r}")
            return
        except NotSettled as error:
            history.counts["write NotSettled"] += 1
            attempt.process = None
            if not world.postgres_is_troubled:
                world.broken(f"a write could not settle although PostgreSQL is well: {error}")
            return
        returned = history.tick()
        if attempt in world.attempts:
            world.attempts.remove(attempt)
        world.note(process.name, f"acknowledged {attempt.mark}")
        for state in states:
            deleted = isinstance(state, Absent)
            history.writes.append(
                Write(
                    state.key,
                    called,
                    returned,
                    state.version,
                    acknowledged=True,
                    deleted=deleted,
                    epoch_order=world.order(state.epoch),
                )
            )
            if not world.committed(state):
                world.broken(f"G2: {state} was acknowledged and never committed")

    async def _settle(self, cache: WriteThrough, acknowledgement: Acknowledgement) -> None:
        loop, process = self._world.loop, self._process
        self._world.history.counts["writes settled"] += not acknowledgement.proven
        began, paused_s = loop.time(), process.paused_s
        await cache.settle(acknowledgement)
        self._bound("settle", loop.time() - began - (process.paused_s - paused_s), self._settle_bound_s())

    async def _write_both(self, attempt: Attempt) -> list[State]:
        """Write keys of both namespaces in one commit, with the shipped code for it."""
        process, changed = self._process, set[str]()

        async def change(session: Any) -> None:
            noted = cast("MemorySession", session)
            noted.mark = attempt.mark
            noted.changes.update({key: self._change(attempt, key, changed) for key in attempt.keys})

        wanted = {entity: [key for key in attempt.keys if table_of(key) == table] for table, entity in process.entities.items()}
        written = await process.caches.write(wanted, change, writes=self._world.draw_policy())
        return [state for states in written.values() for state in states.values()]

    async def _transact(self, attempt: Attempt, changed: set[str]) -> list[State]:
        world, process = self._world, self._process
        changes = {key: self._change(attempt, key, changed) for key in attempt.keys}
        try:
            return await transact(world.postgres, process.postgres_wire, changes, attempt.mark)
        except CommitUnknown:
            if world.parts.unknown_is_success:
                return [Absent(key, world.postgres.epoch, 1 << 40) for key in attempt.keys]
            raise

    def _change(self, attempt: Attempt, key: str, changed: set[str]) -> Change:
        def change(row: Row | None) -> str | None:
            present = row.content if row else None
            if self._world.postgres.applied(attempt.mark):
                return present
            wanted = None if attempt.deletes else attempt.content
            if wanted != present:
                changed.add(key)
            return wanted

        return change

    def _next_attempt(self) -> Attempt:
        """An attempt that somebody has to repeat, or a new one."""
        world, chance = self._world, self._world.chance
        open_attempts = [attempt for attempt in world.attempts if attempt.process is None or not attempt.process.alive]
        if open_attempts and chance.random() < 0.6:
            return chance.choice(open_attempts)
        many = 0.4 if len(world.namespaces) > 1 else 0.2
        count = 2 if len(self._keys) > 1 and chance.random() < many else 1
        keys = tuple(chance.sample(list(self._keys), count))
        world.history.counts["writes begun"] += 1
        mark = f"w{world.history.counts['writes begun']}"
        # What somebody else wrote before is written again: there is nothing to change then.
        content = "often" if chance.random() < 0.2 else mark
        attempt = Attempt(mark, content, keys, chance.random() < 0.15, self._process)
        world.attempts.append(attempt)
        return attempt

    async def _timed(
        self, what: str, bound_s: float, action: Callable[[], Awaitable[list[Answer] | None]]
    ) -> list[Answer] | None:
        loop, process = self._world.loop, self._process
        began, paused_s = loop.time(), process.paused_s
        try:
            return await action()
        except Exception as error:  # noqa: BLE001 - whatever it is, no Redis fault may bring it about
            self._world.broken(f"G3: a {what} failed: {error!r}")
            return None
        finally:
            if process.alive:
                self._bound(what, loop.time() - began - (process.paused_s - paused_s), bound_s)

    def _bound(self, what: str, took_s: float, bound_s: float) -> None:
        if took_s > bound_s:
            self._world.broken(f"a {what} took {took_s:.3f} s, more than its bound of {bound_s:.3f} s")

    def _settle_bound_s(self) -> float:
        config = self._world.config
        largest_s = (config.fence_ttl_max_ms + config.settle_margin_ms + 2 * config.settle_poll_ms) / 1_000
        return largest_s + 4 * POSTGRES_DEADLINE_S + 0.1
