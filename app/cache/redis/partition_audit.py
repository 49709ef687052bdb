"""The slots in Redis during an audit of several partitions: one connection for each node, a script for each partition."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from operator import itemgetter

from typing_extensions import override

from ..errors import StoreUnavailable
from ..partition_ports import PartitionsAuditStore
from ..partitions import Partitions
from ..ports import Begun, Repairs, Watermark
from .audit_store import begin_command, begun_from, distrust_commands, trust_command, verify_command
from .connection import RedisConnection
from .node_store import names_of
from .nodes import RedisNodes
from .refusals import Refusal
from .store import Names, script
from .waiting_calls import RedisCommand, Reply


class RedisPartitionAudits:
    """Opens the ``PartitionsAuditStore`` port of a namespace."""

    def __init__(self, nodes: RedisNodes, partitions: Partitions) -> None:
        self._nodes = nodes
        self._slots = partitions.slots
        self._names = names_of(partitions)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["RedisPartitionsAudit"]:
        """Open the store for one cycle. An error that leaves the context gives the cycle's claims back."""
        connections = self.connections()
        if len(connections) < len(self._names):
            self._nodes.look_again()
        store = self.store(connections)
        try:
            yield store
        except Exception:
            await store.give_claims_back()
            raise

    def connections(self) -> dict[int, RedisConnection]:
        """Return the connection of each partition that can be reached now. The others are tried again in the background."""
        found = {}
        for partition, slot in enumerate(self._slots):
            if (node := self._nodes.owner(slot)) is not None:
                with suppress(StoreUnavailable):
                    found[partition] = node.audits.connection()
        return found

    def store(self, connections: Mapping[int, RedisConnection]) -> "RedisPartitionsAudit":
        """Return the store on these connections."""
        return RedisPartitionsAudit(self._names, connections, self._nodes.look_again)


class RedisPartitionsAudit(PartitionsAuditStore):
    """The ``PartitionsAuditStore`` port on one connection for each node.

    Each partition keeps its connection from the beginning of the cycle to the end, because a repair on one server and a fence
    on another would prove nothing.
    """

    def __init__(
        self, names: Sequence[Names], connections: Mapping[int, RedisConnection], on_trouble: Callable[[], None]
    ) -> None:
        self.names = names
        """The names of each partition's keys."""
        self._connections = connections
        self._on_trouble = on_trouble
        self._token = secrets.token_hex(8)
        self._claimed: set[int] = set()

    @override
    async def begin(self, claim_ms: int) -> Mapping[int, Begun | StoreUnavailable]:
        replies = await self.each(
            range(len(self.names)), lambda partition: begin_command(self.names[partition], self._token, claim_ms)
        )
        begun = {
            partition: reply if isinstance(reply, StoreUnavailable) else begun_from(reply[1], reply[0])
            for partition, reply in replies.items()
        }
        self._claimed = {p for p, one in begun.items() if not isinstance(one, StoreUnavailable) and one.claimed}
        return begun

    @override
    async def verify(
        self, epoch: str, rows: Mapping[int, Sequence[tuple[str, int]]]
    ) -> Mapping[int, Repairs | StoreUnavailable]:
        replies = await self.each(rows, lambda partition: verify_command(self.names[partition], epoch, rows[partition]))
        return {
            partition: reply if isinstance(reply, StoreUnavailable) else Repairs(len(rows[partition]), *reply[1])
            for partition, reply in replies.items()
        }

    @override
    async def distrust(self, marks: Mapping[int, Watermark | None]) -> Mapping[int, StoreUnavailable | None]:
        # The mark is set first: with it, no cycle of the old epoch can set the fence again after it is deleted.
        failed: dict[int, StoreUnavailable | None] = dict.fromkeys(marks)
        commands = {p: distrust_commands(self.names[p], mark) for p, mark in marks.items()}
        for step in (itemgetter(0), itemgetter(1)):
            left = {p: step(both) for p, both in commands.items() if failed[p] is None}
            replies = await self.each(left, left.__getitem__)
            failed |= {p: reply for p, reply in replies.items() if isinstance(reply, StoreUnavailable)}
        return failed

    @override
    async def trust(
        self, begun: Mapping[int, Begun], proven: Watermark, fence_ttl_ms: int
    ) -> Mapping[int, bool | StoreUnavailable]:
        replies = await self.each(
            begun, lambda partition: trust_command(self.names[partition], begun[partition], proven, fence_ttl_ms)
        )
        return {p: reply if isinstance(reply, StoreUnavailable) else bool(reply[1]) for p, reply in replies.items()}

    @override
    async def give_claims_back(self) -> None:
        mine, self._claimed = self._claimed, set()
        # A claim whose node does not answer expires by itself.
        await self.each(mine, lambda partition: script("release", [self.names[partition].claim], [self._token]))

    async def each(
        self, partitions: Collection[int], command: Callable[[int], RedisCommand]
    ) -> dict[int, tuple[str, Reply] | StoreUnavailable]:
        """Run a command for each partition, in one packet for each node; return the server and the reply of each."""
        found: dict[int, tuple[str, Reply] | StoreUnavailable] = {}
        by_connection: dict[RedisConnection, list[int]] = {}
        for partition in partitions:
            connection = self._connections.get(partition)
            if connection is None:
                found[partition] = StoreUnavailable("no node that has this partition can be reached")
            else:
                by_connection.setdefault(connection, []).append(partition)
        for own, answer in zip(
            by_connection.values(),
            await asyncio.gather(*(_call(connection, [command(p) for p in own]) for connection, own in by_connection.items())),
            strict=True,
        ):
            found |= dict.fromkeys(own, answer) if isinstance(answer, StoreUnavailable) else zip(own, answer, strict=True)
        if any(_is_trouble(reply) for reply in found.values()):
            self._on_trouble()
        return found


def _is_trouble(reply: object) -> bool:
    """Return whether a reply, or its absence, means that another node may have the partition."""
    return reply.elsewhere if isinstance(reply, Refusal) else isinstance(reply, StoreUnavailable)


async def _call(
    connection: RedisConnection, commands: Sequence[RedisCommand]
) -> Sequence[tuple[str, Reply] | StoreUnavailable] | StoreUnavailable:
    """Send commands to one node; return its identity and the reply to each, or why there is none."""
    try:
        replies = await connection.call(*commands)
    except StoreUnavailable as error:
        return error
    return [reply if isinstance(reply, Refusal) else (connection.server, reply) for reply in replies]
