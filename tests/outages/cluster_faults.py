"""What is done to a cluster under load: a master is lost or cut off, and partitions move."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from app.private_servers import RedisServer
from tests.harness.cluster import PROBE
from tests.harness.redis_cluster import NODE_TIMEOUT_S
from tests.outages.cluster_scene import Scene, slot_of

_PAUSE_S = 5.0
_SLOW_NODE_TIMEOUT_S = 8.0
_SHORT_CUTS_S = (1.0, 2.0)
"""Cuts that end before an election, or about when it begins."""
_NO_SERVICE, _ONE_SERVICE, _EVERY_SERVICE = range(3)
"""Which services a cut concerns: none, one, which reaches the master alone, or the others, too, which do not reach it."""
_SHORT, _ELECTED, _TWO_MASTERS = range(3)
"""How a cut ends."""
_AFTER_ELECTION_S = {_ELECTED: 1.0, _TWO_MASTERS: 3.0}
_CUTS = (
    *[(sides, ending) for ending in (_SHORT, _ELECTED, _TWO_MASTERS) for sides in (_NO_SERVICE, _ONE_SERVICE, _EVERY_SERVICE)],
    (_EVERY_SERVICE, _TWO_MASTERS),
)


@asynccontextmanager
async def killed(scene: Scene) -> AsyncIterator[float]:
    """Kill the probe's master; its replica takes over, and the master comes back as a replica."""
    lost, witness = await _master_and_witness(scene)
    began = time.monotonic()
    await lost.kill()
    await scene.nodes.until(lambda: scene.has_lost(lost, witness))
    yield began
    await lost.restart()


@asynccontextmanager
async def paused(scene: Scene) -> AsyncIterator[float]:
    """Stop the probe's master for longer than an election, and let it go on: for a moment it takes itself for the master."""
    lost, witness = await _master_and_witness(scene)
    began = time.monotonic()
    lost.pause()
    try:
        await scene.nodes.until(lambda: scene.has_lost(lost, witness))
        yield began
        await asyncio.sleep(began + _PAUSE_S - time.monotonic())  # the fault's length
    finally:
        lost.resume()


@asynccontextmanager
async def handed_over(scene: Scene) -> AsyncIterator[float]:
    """Let a replica of the probe's master take over by ``CLUSTER FAILOVER``."""
    old = await scene.nodes.owner(scene.slot)
    began = time.monotonic()
    await scene.nodes.ask(await scene.nodes.replica_of(old), "CLUSTER", "FAILOVER")
    await scene.nodes.until(lambda: scene.has_lost(old, old))
    yield began


@asynccontextmanager
async def moved_onto_copies(scene: Scene) -> AsyncIterator[float]:
    """Move partitions key by key to a node on which an earlier move, which broke off, has left copies."""
    for slot in _moving(scene):
        target = await scene.nodes.another(slot)
        await _move_onto_copies(scene, slot, target, await _leave_copies(scene, slot, target))
    yield time.monotonic()


@asynccontextmanager
async def moved_at_once(scene: Scene) -> AsyncIterator[float]:
    """Move partitions as Valkey 9 does, each as a whole."""
    for slot in _moving(scene):
        began = time.monotonic()
        await scene.nodes.move_at_once(slot, await scene.nodes.another(slot))
        scene.figures.note_time("a move took", time.monotonic() - began)
    yield time.monotonic()


@asynccontextmanager
async def moved_and_back(scene: Scene) -> AsyncIterator[float]:
    """Move partitions onto copies that were left, and back at once, by turns key by key and as a whole."""
    for slot in _moving(scene):
        home, target = await scene.nodes.owner(slot), await scene.nodes.another(slot)
        left = await _leave_copies(scene, slot, target)
        began = time.monotonic()
        await _move_onto_copies(scene, slot, target, left)
        await (scene.nodes.move_at_once if scene.times % 2 else scene.nodes.move)(slot, home)
        away_s = time.monotonic() - began
        scene.figures.note_time("there and back took", away_s)
        scene.figures.notes["there and back within a second"] += away_s <= 1.0
    yield time.monotonic()


def _moving(scene: Scene) -> tuple[int, int]:
    """Return the slots that move: that of a product that is read and written all the time, and last the probe's."""
    return slot_of(scene.on.workload.hot[0]), slot_of(PROBE)


async def _leave_copies(scene: Scene, slot: int, target: RedisServer) -> list[bytes]:
    """Leave copies of a partition's keys on a node, and let clients write what the copies lack; return their names."""
    source = await scene.nodes.begin_move(slot, target)
    found = await scene.nodes.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1_000)
    names = [name for name in found if name.startswith(b"wtc:{")]
    await scene.nodes.carry(source, target, names, copy=True)
    await scene.nodes.break_off(slot, source, target)
    await scene.read_on(500)
    return names


async def _move_onto_copies(scene: Scene, slot: int, target: RedisServer, left: list[bytes]) -> None:
    """Evict the keys of which there are copies, and move the rest. Nobody can fill them while the slot is open."""
    source = await scene.nodes.begin_move(slot, target)
    if left:
        await scene.nodes.ask(source, "UNLINK", *left)
    await scene.nodes.end_move(slot, source, target)


@asynccontextmanager
async def cut_off(scene: Scene) -> AsyncIterator[float]:
    """Cut the probe's master off from the other nodes, while services go on using it.

    By turns the cut ends before or about the election, or after it, or after it while the master still takes itself for one,
    because its own node timeout is longer.
    """
    sides, ending = _CUTS[scene.times % len(_CUTS)]
    alone = scene.times % len(scene.on.cluster.instances)
    master, witness = await _master_and_witness(scene)
    if ending == _TWO_MASTERS:
        await _set_node_timeout(scene, master, _SLOW_NODE_TIMEOUT_S)
    async with _Watch(scene, master) as watch:
        began = time.monotonic()
        _cut_ways(scene, scene.nodes.number_of(master), sides, alone)
        if ending == _SHORT:
            await asyncio.sleep(_SHORT_CUTS_S[scene.times // 2 % 2])
        else:
            await scene.nodes.until(lambda: scene.has_lost(master, witness))
        elected = time.monotonic()
        if ending != _SHORT:
            await asyncio.sleep(_AFTER_ELECTION_S[ending])
        succeeded = await scene.has_lost(master, witness)
        scene.nodes.ways.cut.clear()
        healed = time.monotonic()
    if ending == _TWO_MASTERS:
        await _set_node_timeout(scene, master, NODE_TIMEOUT_S)
    answered_s, beside = watch.last - began, succeeded and watch.last > elected
    by_it = watch.hits(began, elected, None if sides == _NO_SERVICE else alone)
    assert answered_s >= 0.6 * min(healed - began, NODE_TIMEOUT_S), "the cut master did not answer"
    assert beside or ending != _TWO_MASTERS, "the cut master did not answer beside its successor"
    assert by_it, "the services had no hits from the cut master"
    figures = scene.figures
    figures.notes["cuts with an election"] += succeeded
    figures.notes["cuts in which the master answered beside its successor"] += beside
    figures.notes["hits of the cut master's products before the election"] += by_it
    figures.note_time("the cut took", healed - began)
    figures.note_time("the cut master answered for", answered_s)
    yield healed


def _cut_ways(scene: Scene, master: int, sides: int, alone: int) -> None:
    """Cut a master off from the other nodes, and services from them or from the master."""
    ways = scene.nodes.ways
    ways.separate(master)
    if sides != _NO_SERVICE:
        ways.confine(alone, master)
    if sides == _EVERY_SERVICE:
        ways.keep_out([instance.number for instance in scene.on.cluster.instances if instance.number != alone], master)


class _Watch:
    """Looks when a master executed a read for the last time. A command that it refused does not count."""

    def __init__(self, scene: Scene, master: RedisServer) -> None:
        self.last = time.monotonic()
        self._scene = scene
        self._master = master
        self._keys: set[str] = set()
        self._over = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        owners = await self._scene.nodes.owners()
        self._keys = {key for key in self._scene.keys if owners(slot_of(key)) is self._master}
        self._task = asyncio.create_task(self._look(await self._reads()))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True  # a cancellation could be lost: redis-py sends by ``wait_for`` if there is a timeout
        if self._task is not None:
            await self._task

    def hits(self, since: float, until: float, instance: int | None) -> int:
        """Return the number of hits of its products in that time, at an instance or at any."""
        return sum(
            read.status == "hit" and read.key in self._keys and instance in {None, read.instance}
            for read in self._scene.on.history.reads
            if since < read.called and read.returned < until
        )

    async def _look(self, seen: int) -> None:
        while not self._over:
            now, found = time.monotonic(), await self._reads()
            if found > seen:
                seen, self.last = found, now
            await asyncio.sleep(0.05)

    async def _reads(self) -> int:
        found = await self._scene.nodes.ask(self._master, "INFO", "commandstats")
        return int(found.get("cmdstat_mget", {}).get("calls", 0))


async def _set_node_timeout(scene: Scene, node: RedisServer, seconds: float) -> None:
    await scene.nodes.ask(node, "CONFIG", "SET", "cluster-node-timeout", int(seconds * 1000))


async def _master_and_witness(scene: Scene) -> tuple[RedisServer, RedisServer]:
    """Return the probe's master, and another node, which will tell who has the probe's slot."""
    master = await scene.nodes.owner(scene.slot)
    return master, next(server for server in scene.nodes.servers if server is not master)
