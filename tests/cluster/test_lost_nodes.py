"""What the reads of a node that is lost cost the others: they learn of it a few at a time, and leave no garbage."""

import asyncio
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import pytest
from typing_extensions import override

from app.cache.errors import LeasesInDoubt, StoreUnavailable
from app.cache.history import History
from app.cache.partitioned_trips import READS_WHEN_LOST, PartitionedTrips, Trips
from app.cache.ports import Absent, Publication, Published, Reading
from app.cache.round_trips import RoundTrips
from app.cache.stats import Stats
from tests.cluster.two_nodes import EPOCH, Node, TwoNodes, keys_of
from tests.fakes.store import MemoryStore
from tests.limits import cache_config

Result = TypeVar("Result")
HERE, *MORE = keys_of(0, 3 * READS_WHEN_LOST + 1)
[THERE] = keys_of(2, 1)
_READS = 50


class LostNode(Node):
    """A node that never answers. Each of its errors is a new one, as that of a connection is."""

    @override
    async def _run(self, name: str, work: Callable[[], Result]) -> Result:
        raise StoreUnavailable("the node is lost")


class LostStore(MemoryStore):
    """A store that never answers."""

    def __init__(self) -> None:
        """Have no server."""

    @override
    async def read(self, keys: Sequence[str], lease: Sequence[str] = ()) -> Reading:
        raise StoreUnavailable("the store is lost")

    @override
    async def lease(self, keys: Sequence[str]) -> dict[str, str]:
        raise LeasesInDoubt("the store is lost", dict.fromkeys(keys, "token"))

    @override
    async def publish(self, publications: Sequence[Publication]) -> Published:
        raise StoreUnavailable("the store is lost")

    @override
    async def release(self, tokens: dict[str, str]) -> None:
        raise StoreUnavailable("the store is lost")


def partitioned(store: TwoNodes) -> PartitionedTrips:
    """Return the trips of a process that trusts the fences of both nodes."""
    history = History()
    history.record(EPOCH, 0.0)
    return PartitionedTrips(store, cache_config(), Stats(), history, time.monotonic)


def on_a_lost_node() -> Trips:
    """Return the trips to two nodes, one of which is lost."""
    store = TwoNodes()
    store.owners[0] = LostNode()
    return partitioned(store)


def to_a_lost_store() -> Trips:
    """Return the trips to a store that is not divided, and lost."""
    return RoundTrips(LostStore(), cache_config(), Stats(), History(), time.monotonic)


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("trips_of", [on_a_lost_node, to_a_lost_store])
async def test_read_of_a_lost_node_leaves_no_garbage(trips_of: Callable[[], Trips]) -> None:
    """Neither of a peek nor of a read is anything left that only a collection could free: it would hold all requests up."""
    trips = trips_of()
    for _ in range(_READS):
        peeked = trips.submit_read((HERE,))
        await asyncio.wait([peeked])
        assert isinstance(peeked.exception(), StoreUnavailable)
        del peeked
        with suppress(StoreUnavailable):
            await trips.read([HERE])
    assert gc.collect() < _READS


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("trips_of", [on_a_lost_node, to_a_lost_store])
async def test_write_to_a_lost_node_leaves_no_garbage(trips_of: Callable[[], Trips]) -> None:
    """The same of leases that cannot be taken or given back, and of states that cannot be published."""
    trips = trips_of()
    for _ in range(_READS):
        assert await trips.lease([HERE]) is None
        assert await trips.publish([Publication(Absent(HERE, EPOCH, 1))]) is None
        trips.release({HERE: "token"})
    await trips.aclose()
    assert gc.collect() < _READS


async def test_reads_that_waited_for_a_lost_node_end_in_portions() -> None:
    """Their callers go on one portion after another, and a read of the other node is answered between them."""
    store = TwoNodes()
    trips = partitioned(store)
    store.one.script.lose("read", times=1 + 3)
    await asyncio.wait([trips.submit_read((HERE,))])
    ended: list[str] = []
    reads = [(key, trips.submit_read((key,))) for key in [*MORE, THERE]]
    for key, read in reads:
        read.add_done_callback(partial(_note, ended, key))
    await asyncio.wait([read for _, read in reads])
    assert len(MORE) == 3 * READS_WHEN_LOST
    assert store.one.calls.count("read") == 1 + 3
    assert ended.index(THERE) < len(ended) - READS_WHEN_LOST


def _note(ended: list[str], key: str, _: object) -> None:
    ended.append(key)


async def test_node_that_is_back_gets_whole_batches() -> None:
    """Only the first batch is small that a lost node answers again."""
    store = TwoNodes()
    trips = partitioned(store)
    store.one.script.lose("read")
    await asyncio.wait([trips.submit_read((HERE,))])
    await asyncio.gather(*(trips.submit_read((key,)) for key in MORE))
    assert store.one.calls.count("read") == 1 + 1 + 1
