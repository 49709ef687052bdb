"""The slots of a namespace that is divided into partitions, in Redis: the ports of ``partition_ports`` over nodes."""

from collections.abc import Callable, Sequence

from typing_extensions import override

from ..errors import LeasesInDoubt, StoreUnavailable
from ..partition_ports import LeaseRequest, NodeStore, PartitionedStore, PublishRequest, ReadRequest
from ..partitions import Partitions
from ..ports import Published, Reading
from .connection import RedisLink
from .nodes import RedisNode, RedisNodes
from .refusals import Refusal
from .store import Lifetimes, Names, SlotCommands, leases_in_doubt, new_tokens, published, taken_leases
from .waiting_calls import RedisCommand, Reply


class RedisPartitions(PartitionedStore):
    """The ``PartitionedStore`` port over the nodes of a process."""

    def __init__(self, nodes: RedisNodes, partitions: Partitions, lifetimes: Lifetimes) -> None:
        self.partitions = partitions
        self._nodes = nodes
        self._commands = [SlotCommands(names, lifetimes) for names in names_of(partitions)]
        self._stores: dict[RedisNode, RedisNodeStore] = {}

    @override
    def node(self, partition: int) -> NodeStore | None:
        node = self._nodes.owner(self.partitions.slots[partition])
        if node is None:
            self._nodes.look_again()
            return None
        store = self._stores.get(node)
        if store is None:
            present = set(self._nodes.present)
            self._stores = {known: one for known, one in self._stores.items() if known in present}
            store = self._stores[node] = RedisNodeStore(node, self._commands, self._nodes.look_again)
        return store

    @property
    @override
    def nodes(self) -> Sequence[NodeStore]:
        return [self._stores[node] for node in self._nodes.present if node in self._stores]


class RedisNodeStore(NodeStore):
    """The ``NodeStore`` port on the connections to one node.

    Args:
        node: the node.
        commands: the commands of each partition.
        on_trouble: called when the node is lost, or is not the owner of a partition.
    """

    def __init__(self, node: RedisNode, commands: Sequence[SlotCommands], on_trouble: Callable[[], None]) -> None:
        self._links = node.links
        self._commands = commands
        self._on_trouble = on_trouble

    @override
    async def read(self, requests: Sequence[ReadRequest]) -> Sequence[Reading | StoreUnavailable]:
        commands = self._commands
        if not self._links.publishes.up or not any(lease for _, _, lease in requests):
            server, replies = await self._call(
                self._links.reads, lambda _: [commands[partition].read(keys) for partition, keys, _ in requests]
            )
            return [
                found if isinstance(found, Refusal) else commands[partition].reading(server, found, None)
                for (partition, _, _), found in zip(requests, replies, strict=True)
            ]
        return await self._read_and_lease(requests)

    async def _read_and_lease(self, requests: Sequence[ReadRequest]) -> Sequence[Reading | StoreUnavailable]:
        commands = self._commands
        tokens = [new_tokens(lease) for _, _, lease in requests]

        def packet(server: str) -> list[RedisCommand]:
            # All reads come first, so that none of them meets a lease of another one and takes its slot for filled.
            reads = [commands[partition].read(keys) for partition, keys, _ in requests]
            pairs = zip(requests, tokens, strict=True)
            return reads + [commands[p].lease("lease_if_possible", own, server) for (p, _, _), own in pairs if own]

        with leases_in_doubt(_joined(tokens)):
            answered, replies = await self._call(self._links.reads, packet)
        taken = iter(replies[len(requests) :])
        leases = [_leases(own, next(taken)) if own else None for own in tokens]
        readings: list[Reading | StoreUnavailable] = []
        for (partition, _, _), found, own in zip(requests, replies[: len(requests)], leases, strict=True):
            if not isinstance(found, Refusal):
                readings.append(commands[partition].reading(answered, found, own))
            elif own:  # the partition came back between the read and the lease
                readings.append(LeasesInDoubt(str(found), own))
            else:
                readings.append(found)
        return readings

    @override
    async def lease(self, requests: Sequence[LeaseRequest]) -> Sequence[dict[str, str] | StoreUnavailable]:
        if not self._links.publishes.up:  # nobody could fill their slots
            return [{} for _ in requests]
        tokens = [new_tokens(keys) for _, keys in requests]
        with leases_in_doubt(_joined(tokens)):
            _, replies = await self._call(
                self._links.leases,
                lambda server: [
                    self._commands[partition].lease("lease", own, server)
                    for (partition, _), own in zip(requests, tokens, strict=True)
                ],
            )
        return [
            reply if isinstance(reply, Refusal) else taken_leases(own, reply)
            for own, reply in zip(tokens, replies, strict=True)
        ]

    @override
    async def publish(self, requests: Sequence[PublishRequest]) -> Sequence[Published | StoreUnavailable]:
        _, replies = await self._call(
            self._links.publishes,
            lambda server: [self._commands[partition].publish(publications, server) for partition, publications in requests],
        )
        return [reply if isinstance(reply, Refusal) else published(reply) for reply in replies]

    @override
    async def release(self, requests: Sequence[tuple[int, dict[str, str]]]) -> None:
        await self._call(
            self._links.for_releases, lambda _: [self._commands[partition].release(tokens) for partition, tokens in requests]
        )

    @override
    async def drop(self, partition: int, key: str) -> None:
        _, [reply] = await self._call(self._links.leases, lambda _: [self._commands[partition].drop(key)])
        if isinstance(reply, Refusal):
            raise reply

    async def _call(self, link: RedisLink, packet: Callable[[str], Sequence[RedisCommand]]) -> tuple[str, list[Reply]]:
        try:
            server, replies = await link.call_naming_server(packet)
        except StoreUnavailable:
            self._on_trouble()
            raise
        if any(isinstance(reply, Refusal) and reply.elsewhere for reply in replies):
            self._on_trouble()
        return server, replies


def _joined(tokens: Sequence[dict[str, str]]) -> dict[str, str]:
    return {key: token for own in tokens for key, token in own.items()}


def _leases(tokens: dict[str, str], reply: Reply) -> dict[str, str]:
    """Return the tokens of the leases that were taken, by key; none if the partition was refused."""
    return {} if isinstance(reply, Refusal) else taken_leases(tokens, reply)


def names_of(partitions: Partitions) -> list[Names]:
    """Return the names of each partition's keys. The braces show Redis what to hash."""
    return [Names(f"{{{tag}}}") for tag in partitions.tags]
