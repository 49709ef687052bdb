"""All slots of a namespace that is divided into partitions, for an inspection and for an operator who empties them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from typing_extensions import override

from ..errors import StoreUnavailable
from ..inspection import SlotReader
from ..partitions import Partitions, joined
from .audit_store import glob_of, in_incarnation, scan
from .connection import RedisConnection, Reply
from .nodes import RedisNodes
from .partition_audit import RedisPartitionAudits, RedisPartitionsAudit


@asynccontextmanager
async def open_partition_slots(nodes: RedisNodes, partitions: Partitions) -> AsyncIterator["RedisPartitionSlots"]:
    """Connect to every node. Raises ``StoreUnavailable`` if a partition cannot be reached."""
    await nodes.start()
    audits = RedisPartitionAudits(nodes, partitions)
    connections = audits.connections()
    if len(connections) < partitions.number:
        raise StoreUnavailable(f"{partitions.number - len(connections)} of {partitions.number} partitions cannot be reached")
    yield RedisPartitionSlots(audits.store(connections), connections, partitions)


class RedisPartitionSlots(SlotReader):
    """The ``SlotReader`` port over nodes. It cannot be used after a connection is lost."""

    def __init__(self, store: RedisPartitionsAudit, connections: Mapping[int, RedisConnection], partitions: Partitions) -> None:
        self._store = store
        self._connections = connections
        self._partitions = partitions

    async def start_clean(self) -> None:
        """Delete watermark and fence of every partition, so that the next audit begins new incarnations."""
        answers = await self._store.distrust(dict.fromkeys(range(self._partitions.number)))
        for answer in answers.values():
            if answer is not None:
                raise answer

    @override
    async def keys(self) -> AsyncIterator[Sequence[str]]:
        # Every tag of these partitions begins like this, and no other.
        pattern = glob_of(f"wtc:{{{self._partitions.name}.") + "*"
        for connection in dict.fromkeys(self._connections.values()):
            async for found in scan(connection, pattern):
                yield [name.decode("utf-8", "replace").partition("}:")[2] for name in found]

    @override
    async def raw(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        parts = self._partitions.cut(keys)
        names = self._store.names
        replies = await self._sent(
            {
                p: ("MGET", names[p].watermark, *[names[p].prefix + keys[place] for place in places])
                for p, places in parts.items()
            }
        )
        return joined(parts.values(), [in_incarnation(replies[partition]) for partition in parts])

    async def delete(self, keys: Sequence[str]) -> None:
        """Empty slots, which is always safe. Idempotent."""
        await self._unlink(keys)

    async def unlink_all(self) -> int:
        """Delete every slot, and so free its memory; return how many there were. Idempotent, always safe."""
        return sum([await self._unlink(keys) async for keys in self.keys()])

    async def _unlink(self, keys: Sequence[str]) -> int:
        names = self._store.names
        replies = await self._sent(
            {
                p: ("UNLINK", *[names[p].prefix + keys[place] for place in places])
                for p, places in self._partitions.cut(keys).items()
            }
        )
        return sum(replies.values())

    async def _sent(self, commands: Mapping[int, Sequence[str]]) -> dict[int, Reply]:
        """Send a command to each partition; return the replies. Raises ``StoreUnavailable`` if one has none."""
        replies: dict[int, Reply] = {}
        for partition, reply in (await self._store.each(commands, lambda one: commands[one])).items():
            if isinstance(reply, StoreUnavailable):
                raise reply
            replies[partition] = reply[1]
        return replies
