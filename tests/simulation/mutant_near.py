"""Copies of slots with one guard off. ``tests/fakes/near_store.py`` has the guards."""

from collections.abc import Sequence

from typing_extensions import override

from app.cache.ports import Publication, Published
from app.cache.redis.near_slots import NearSlots
from tests.fakes.near_store import Message, NearMemoryStore, TrackedConnection
from tests.fakes.store import Connection


class ToldAtTheEndOfTheLoop(NearMemoryStore):
    """Redis tells of changes at the end of its loop's iteration, behind the reply, as in BCAST mode."""

    _behind: tuple[Sequence[Message], ...] = ((), ())

    @override
    async def _take_back(self, reads: TrackedConnection, messages: Sequence[Message]) -> None:
        first, *rest = (*self._behind, messages)
        self._behind = tuple(rest)
        await super()._take_back(reads, first)


class ToldByAnotherConnection(NearMemoryStore):
    """Redis tells of changes by another connection, whose messages come when they come."""

    @override
    async def _take_back(self, reads: TrackedConnection, messages: Sequence[Message]) -> None:
        self._late = [*getattr(self, "_late", ()), *messages]
        if self._chance.random() < 0.5:
            messages, self._late = self._late, []
            await super()._take_back(reads, messages)


class KeepsCopiesOverConnections(NearMemoryStore):
    """A new connection begins with the copies of the last one."""

    _copies: NearSlots | None = None

    @override
    def _tracked(self, connection: Connection) -> TrackedConnection:
        tracked = super()._tracked(connection)
        tracked.near = self._copies = self._copies or tracked.near
        return tracked


class NotToldOfOwnWrites(NearMemoryStore):
    """Redis does not tell a process of what the process itself has published."""

    @override
    async def publish(self, publications: Sequence[Publication]) -> Published:
        published = await super().publish(publications)
        if self._reads is not None:
            self._reads.track(self._reads.connection.server, list(self._reads.tracked))
        return published


class KeepsWhatWasTakenBack(NearMemoryStore):
    """A slot is kept although Redis told of its change behind the reply, before the packet's end."""

    @override
    async def _take_back(self, reads: TrackedConnection, messages: Sequence[Message]) -> None:
        before = reads.near.invalidations
        await super()._take_back(reads, messages)
        reads.near.invalidations = before


MUTANTS: dict[str, type[NearMemoryStore]] = {
    mutant.__name__: mutant
    for mutant in (
        ToldAtTheEndOfTheLoop,
        ToldByAnotherConnection,
        KeepsCopiesOverConnections,
        NotToldOfOwnWrites,
        KeepsWhatWasTakenBack,
    )
}
