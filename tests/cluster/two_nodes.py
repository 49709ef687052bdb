"""Two nodes in memory, each with half of the partitions, whose calls a test holds, loses and counts."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from typing_extensions import override

from app.cache.errors import StoreUnavailable
from app.cache.partition_ports import LeaseRequest, NodeStore, PartitionedStore, PublishRequest, ReadRequest
from app.cache.partitions import Partitions
from app.cache.ports import Outcome, Publication, Published, Reading, Source, State, Value
from tests.harness.script import Script

Result = TypeVar("Result")

EPOCH = "7000000000000000001.00000002.00000000000000aa"
PARTITIONS = Partitions("n~2", 4)


def keys_of(partition: int, number: int = 3) -> list[str]:
    """Return keys of a partition."""
    return [key for count in range(200) if PARTITIONS.of(key := f"k{count}") == partition][:number]


class Node(NodeStore):
    """One node. An empty slot can be leased, and is filled by the token of its lease. Every publish is proven."""

    def __init__(self) -> None:
        self.script = Script(lambda: StoreUnavailable("the test took the node away"))
        self.leases: dict[str, str] = {}
        self.states: dict[str, State] = {}
        self.calls: list[str] = []
        self._tokens = 0

    @override
    async def read(self, requests: Sequence[ReadRequest]) -> Sequence[Reading | StoreUnavailable]:
        return await self._run("read", lambda: [Reading(EPOCH, [None] * len(keys), "0" * 16) for _, keys, _ in requests])

    @override
    async def lease(self, requests: Sequence[LeaseRequest]) -> Sequence[dict[str, str] | StoreUnavailable]:
        return await self._run("lease", lambda: [self._take(keys) for _, keys in requests])

    @override
    async def publish(self, requests: Sequence[PublishRequest]) -> Sequence[Published | StoreUnavailable]:
        return await self._run("publish", lambda: [Published(tuple(map(self._put, own)), proven=True) for _, own in requests])

    @override
    async def release(self, requests: Sequence[tuple[int, dict[str, str]]]) -> None:
        def work() -> None:
            for key, token in [item for _, tokens in requests for item in tokens.items()]:
                if self.leases.get(key) == token:
                    del self.leases[key]

        await self._run("release", work)

    @override
    async def drop(self, partition: int, key: str) -> None:
        raise NotImplementedError

    async def _run(self, name: str, work: Callable[[], Result]) -> Result:
        self.calls.append(name)
        return await self.script.run(name, work)

    def _take(self, keys: Sequence[str]) -> dict[str, str]:
        taken = {}
        for key in keys:
            if key not in self.leases and key not in self.states:
                self._tokens += 1
                taken[key] = self.leases[key] = f"token-{self._tokens}"
        return taken

    def _put(self, publication: Publication) -> Outcome:
        key = publication.state.key
        if self.leases.get(key) == publication.token:
            del self.leases[key]
            self.states[key] = publication.state
            return Outcome.STORED
        return Outcome.KEPT if key in self.states else Outcome.EMPTY


class TwoNodes(PartitionedStore):
    """Partitions 0 and 1 on one node, 2 and 3 on the other one, until the test moves them."""

    def __init__(self) -> None:
        self.partitions = PARTITIONS
        self.one, self.two = Node(), Node()
        self.owners: list[Node | None] = [self.one, self.one, self.two, self.two]

    @override
    def node(self, partition: int) -> NodeStore | None:
        return self.owners[partition]

    @property
    @override
    def nodes(self) -> Sequence[NodeStore]:
        return list(dict.fromkeys(node for node in self.owners if node is not None))


class Rows(Source):
    """The source: it has a row for every key, and keeps which keys each statement asked for."""

    def __init__(self) -> None:
        self.loads: list[set[str]] = []

    @override
    async def load(self, keys: Sequence[str]) -> dict[str, State]:
        self.loads.append(set(keys))
        return {key: Value(key, EPOCH, 1, b"row") for key in keys}
