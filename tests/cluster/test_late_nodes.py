"""What one node delays when it hangs, or is gone, and what becomes of leases that nobody waits for any more."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.cache.history import History
from app.cache.loads import Load, Loads
from app.cache.partitioned_trips import PartitionedTrips
from app.cache.ports import Outcome, Publication, Value
from app.cache.stats import Stats
from tests.cluster.two_nodes import EPOCH, PARTITIONS, Node, Rows, TwoNodes, keys_of
from tests.harness.script import PATIENCE_S
from tests.limits import cache_config

HERE, *HERE_TOO = keys_of(0)
THERE, *THERE_TOO = keys_of(2)


class Rig:
    """The round trips and loads of one process."""

    def __init__(self, **limits: int) -> None:
        config, history = cache_config(**limits), History()
        history.record(EPOCH, 0.0)
        self.store, self.rows, self.stats = TwoNodes(), Rows(), Stats()
        self.trips = PartitionedTrips(self.store, config, self.stats, history, time.monotonic)
        self.loads = Loads(self.rows, self.trips, config, self.stats, history, clock=time.monotonic)

    @property
    def leases(self) -> list[str]:
        """The keys that are leased on either node."""
        return [*self.store.one.leases, *self.store.two.leases]

    def load(self, *keys: str, vacant: bool = True) -> "asyncio.Task[list[bool]]":
        """Begin to load keys for one caller; the result says of each whether it was stored."""

        async def run() -> list[bool]:
            return [loaded.stored for loaded in await self.loads.run([Load(key, vacant=vacant) for key in keys])]

        return asyncio.create_task(run())

    async def aclose(self) -> None:
        """Finish everything."""
        async with asyncio.timeout(PATIENCE_S):
            await self.loads.aclose()
            await self.trips.aclose()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    for node in (rig.store.one, rig.store.two):
        node.script.let_go()
    await rig.aclose()


@asynccontextmanager
async def hanging(node: Node, verb: str) -> AsyncIterator[None]:
    """Hold the next call of a node until the end."""
    gate = node.script.hold(verb)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield
            await gate.arrival()
    finally:
        gate.open()


@pytest.mark.guarantee("R2")
@pytest.mark.parametrize("held", ["lease of the second", "reply of the second", "nothing"])
async def test_caller_who_leaves_while_leases_are_taken(rig: Rig, held: str) -> None:
    """Leases that were taken, and those that come later, are given back: no slot stays empty until they expire."""
    script = rig.store.two.script
    gate = None if held == "nothing" else script.hold("lease") if held.startswith("lease") else script.hold_reply("lease")
    caller = asyncio.create_task(rig.trips.lease([HERE, THERE]))
    if gate is not None:
        await gate.arrival()
    while HERE not in rig.store.one.leases or (gate is None and THERE not in rig.store.two.leases):
        await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    if gate is not None:
        gate.open()
    await rig.aclose()
    assert caller.cancelled()
    assert rig.leases == []


@pytest.mark.guarantee("R2")
async def test_release_without_an_answer(rig: Rig) -> None:
    """A lease whose node did not answer its release is given back behind the next read which that node answers."""
    rig.store.one.script.lose("release")
    rig.trips.release(await rig.trips.lease([HERE, THERE]) or {})
    await rig.trips.aclose()
    assert rig.leases == [HERE]
    await rig.trips.read([THERE])
    for _ in range(10):
        await asyncio.sleep(0)
    assert rig.leases == [HERE]
    await rig.trips.read([HERE])
    await rig.trips.aclose()
    assert rig.leases == []


async def test_release_that_finds_the_queue_full() -> None:
    """It is given back behind the next read."""
    rig = Rig(queue_limit=1)
    one, two, three = [await rig.trips.lease([key]) or {} for key in (HERE, *HERE_TOO)]
    held = rig.store.one.script.hold("release")
    rig.trips.release(one)
    await held.arrival()
    rig.trips.release(two)
    rig.trips.release(three)
    held.open()
    async with asyncio.timeout(PATIENCE_S):
        while len(rig.leases) > 1:
            await asyncio.sleep(0)
    await rig.trips.read([HERE])
    await rig.aclose()
    assert rig.leases == []


async def test_leases_that_are_owed_are_limited() -> None:
    """Beyond as many as a batch has keys, the oldest are forgotten, and expire."""
    rig = Rig(batch_keys=2)
    keys = (HERE, *HERE_TOO)
    for key in keys:
        rig.store.one.script.lose("release")
        rig.trips.release(await rig.trips.lease([key]) or {})
        async with asyncio.timeout(PATIENCE_S):
            while rig.store.one.calls.count("release") <= keys.index(key):
                await asyncio.sleep(0)
    assert rig.leases == list(keys)
    await rig.trips.read([HERE])
    await rig.aclose()
    assert rig.leases == [HERE]


@pytest.mark.parametrize("token_is_last", [False, True])
async def test_leases_that_are_given_back_at_the_end(rig: Rig, *, token_is_last: bool) -> None:
    """Two leases of one slot are given back together: the one that the slot holds goes. So do those that are owed."""
    tokens = await rig.trips.lease([HERE, HERE_TOO[0]]) or {}
    rig.store.one.script.lose("release")
    rig.trips.release({HERE_TOO[0]: tokens[HERE_TOO[0]]})
    async with asyncio.timeout(PATIENCE_S):
        while rig.store.one.calls.count("release") == 0:
            await asyncio.sleep(0)
    held = rig.store.one.script.hold("release")
    rig.trips.release({HERE_TOO[1]: "none"})
    await held.arrival()
    for token in ("other", tokens[HERE]) if token_is_last else (tokens[HERE], "other"):
        rig.trips.release({HERE: token})
    held.open()
    await rig.aclose()
    assert rig.leases == []


async def test_write_does_not_wait_for_leases_of_a_late_node(rig: Rig) -> None:
    """It goes on with the leases of the others, and the late ones are given back when they come."""
    async with hanging(rig.store.two, "lease"):
        assert set(await rig.trips.lease([HERE, THERE]) or {}) == {HERE}
    await rig.aclose()
    assert rig.leases == [HERE]


async def test_write_does_not_wait_for_a_late_node_alone(rig: Rig) -> None:
    """It goes on without leases, if all that it needs are of that node. They are given back when they come."""
    async with hanging(rig.store.two, "lease"):
        assert await rig.trips.lease([THERE]) is None
    await rig.aclose()
    assert rig.leases == []


async def test_loads_share_a_statement(rig: Rig) -> None:
    """Keys of both nodes are loaded by one statement while both answer, and all are stored."""
    assert await rig.load(HERE, THERE) == [True, True]
    assert rig.rows.loads == [{HERE, THERE}]


@pytest.mark.guarantee("G3", "G5")
async def test_load_does_not_wait_for_leases_of_a_late_node(rig: Rig) -> None:
    """Keys of the other node are loaded and stored while it hangs; its own are loaded once, when it answers."""
    async with hanging(rig.store.two, "lease"):
        here, there = rig.load(HERE), rig.load(THERE)
        assert await here == [True]
        again = rig.load(THERE)
        assert await rig.load(HERE_TOO[0], vacant=False) == [False]
        assert not there.done()
        assert rig.rows.loads == [{HERE}, {HERE_TOO[0]}]
    assert await there == [True]
    assert await again == [False]
    assert rig.rows.loads[2:] == [{THERE}] * 2
    assert rig.leases == []


@pytest.mark.guarantee("G3")
async def test_load_that_comes_later_does_not_wait_either(rig: Rig) -> None:
    """A batch of keys of the late node alone does not hold up the next batch, which has keys of the other one."""
    async with hanging(rig.store.two, "lease"):
        there = rig.load(THERE)
        while "lease" not in rig.store.two.calls:
            await asyncio.sleep(0)
        assert await rig.load(HERE) == [True]
        assert not there.done()
        assert rig.rows.loads == [{HERE}]
    assert await there == [True]


async def test_load_without_a_lease_does_not_wait_either(rig: Rig) -> None:
    """A key that needs no lease is loaded, though a key of a node that hangs is in the same batch."""
    async with hanging(rig.store.two, "lease"):
        there, here = rig.load(THERE), rig.load(HERE, vacant=False)
        assert await here == [False]
    assert await there == [True]


async def test_fill_does_not_wait_for_a_node_that_hangs(rig: Rig) -> None:
    """Each node's slots are filled by themselves."""
    async with hanging(rig.store.two, "publish"):
        here, there = rig.load(HERE), rig.load(THERE)
        assert await here == [True]
        assert rig.rows.loads == [{HERE, THERE}]
        assert not there.done()
    assert await there == [True]


@pytest.mark.guarantee("R3")
@pytest.mark.parametrize("successor", ["nobody", "the other node"])
async def test_node_that_is_gone_between_the_cut_and_the_send(rig: Rig, successor: str) -> None:
    """A publish and a lease that wait for a batch of a node whose partitions have moved are not sent to another one."""
    store = rig.store
    gates = [store.two.script.hold("lease"), store.two.script.hold("publish")]
    first = [asyncio.create_task(rig.trips.lease([THERE])), asyncio.create_task(rig.trips.publish([_of(THERE)]))]
    for gate in gates:
        await gate.arrival()
    publish = asyncio.create_task(rig.trips.publish([_of(HERE), _of(THERE_TOO[0])]))
    lease = asyncio.create_task(rig.trips.lease([THERE_TOO[1]]))
    batches = rig.trips._trips[store.two]
    while not (batches._publishes.waiting and batches._leases.waiting):
        await asyncio.sleep(0)
    store.owners[2:] = [store.one] * 2 if successor == "the other node" else [None] * 2
    for verb, gate in zip(("lease", "publish"), gates, strict=True):
        store.two.script.lose(verb)
        gate.open()
    published = await publish
    assert published is not None
    assert published.outcomes == (Outcome.EMPTY, Outcome.UNTRUSTED)
    assert (published.proven, published.unproven) == (False, frozenset({PARTITIONS.rows[2]}))
    assert await lease is None
    assert await asyncio.gather(*first)
    assert (store.one.calls.count("publish"), store.one.calls.count("lease")) == (1, 0)
    # The next ones know where the partition is now.
    assert (await rig.trips.lease([THERE_TOO[1]]) is not None) == (successor == "the other node")


def _of(key: str) -> Publication:
    return Publication(Value(key, EPOCH, 1, b"row"))
