"""The store's port over in-memory servers, with the shipped copies of slots on its reading connection.

A server that tracks tells a connection of every key that has changed since the connection read it, before the next reply. Here
the server finds the changes when the next command comes: it compares each slot with what it was, which puts them in the same
place of the stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from typing_extensions import override

from app.cache.ports import Reading
from app.cache.redis.near_slots import NearSlots
from tests.fakes.redis import RedisError, RedisServer
from tests.fakes.store import Connection, MemoryStore, connect, lost_call
from tests.fakes.wire import Disconnected

LIMIT_BYTES = 1_000_000
Message = tuple[bytes, list[bytes]]


@dataclass(eq=False, slots=True)
class TrackedConnection:
    """A reading connection: what the server remembers of it, and the copies at its other end."""

    connection: Connection
    near: NearSlots = field(default_factory=lambda: NearSlots(LIMIT_BYTES))
    tracked: dict[str, tuple[bytes, float]] = field(default_factory=dict)

    def changes(self, server: RedisServer) -> list[Message]:
        """What the server has to say before its next reply."""
        slots = server.space.slots
        gone = [key for key, held in self.tracked.items() if slots.get(key) is not held]
        for key in gone:
            del self.tracked[key]
        return [(b"invalidate", [key.encode()]) for key in gone]

    def track(self, server: RedisServer, keys: Sequence[str]) -> None:
        """Remember that the connection has read these keys. An empty slot is not kept by anybody, so it need not be told."""
        slots = server.space.slots
        self.tracked |= {key: slots[key] for key in keys if key in slots}


class NearMemoryStore(MemoryStore):
    """The ``Store`` port whose reads use copies, as ``RedisStore`` does."""

    _reads: TrackedConnection | None = None

    @override
    async def read(self, keys: Sequence[str], lease: Sequence[str] = ()) -> Reading:
        found = None if lease else await self._read(keys, ())
        return found or await self._read(keys, lease, anew=True)  # type: ignore[return-value]  # anew, nothing is missing

    async def _read(self, keys: Sequence[str], lease: Sequence[str], *, anew: bool = False) -> Reading | None:
        connection, self._reads = self._reads, None
        tokens, life_s = self._tokens(lease), self._lifetimes.lease_s
        sent = False
        try:
            if connection is None:
                connection = self._tracked(await connect(self._route, self._wire))
            sent = True
            reads, near = connection, connection.near
            others, since = (list(keys) if anew else near.others(keys)), near.invalidations

            def read(server: RedisServer, identity: str) -> tuple[list[Message], Reading]:
                reading = server.read(identity, others)
                before = reads.changes(server)
                reads.track(server, others)
                if tokens:
                    reading = replace(reading, leases=server.lease(identity, tokens, life_s))
                return before, reading

            messages, reading = await self._wire.call("read", lambda: reads.connection.run(read, self._namespace))
            await self._take_back(reads, messages)
            # Other clients' commands come between the two: the second one says who answers.
            messages = await self._wire.call(
                "identity", lambda: reads.connection.run(lambda server, _: reads.changes(server), self._namespace)
            )
            await self._take_back(reads, messages)
        except (Disconnected, RedisError) as error:
            raise lost_call("read", error, tokens if sent else {}) from error
        self._reads = reads
        slots = near.join(keys, others, reading.slots, since)
        return None if slots is None else replace(reading, slots=slots)

    def _tracked(self, connection: Connection) -> TrackedConnection:
        return TrackedConnection(connection)

    async def _take_back(self, reads: TrackedConnection, messages: Sequence[Message]) -> None:
        for message in messages:
            await reads.near.invalidate(message)
