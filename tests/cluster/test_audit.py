"""One audit cycle of many partitions: each goes through its own steps, and one that fails drops out alone (R5, R6)."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from app.cache.errors import StoreUnavailable
from app.cache.history import History
from app.cache.partitioned_audit import STRAGGLE_ROWS, PartitionedAudit
from app.cache.partitions import Partitions
from app.cache.ports import Announced, Begun, Deferred, FenceLimits, Repairs, Snapshot, Watermark
from app.cache.stats import Stats
from tests.limits import cache_config

EPOCH, OTHER = "7000000000000000001.00000002.00000000000000aa", "7000000000000000001.00000001.00000000000000bb"
PARTITIONS = Partitions("n~2", 4)
KEYS = [next(f"k{n}" for n in range(99) if PARTITIONS.of(f"k{n}") == partition) for partition in range(4)]
"""A key of each partition."""
LOST = StoreUnavailable("the test took the node away")
CONFIG = cache_config()


def watermark(xid: int = 700, epoch: str = EPOCH) -> Watermark:
    return Watermark(epoch, xid, "0" * 16, "node")


class Node:
    """The store: what each partition holds, and the step in which some are lost."""

    def __init__(self) -> None:
        self.begun: dict[int, Begun] = {p: Begun(1_000, "node", watermark(), claimed=True, counts=True) for p in range(4)}
        self.lost: dict[str, set[int]] = {}
        self.verified: dict[int, Sequence[tuple[str, int]]] = {}
        self.distrusted: dict[int, Watermark | None] = {}
        self.trusted: dict[int, Begun] = {}
        self.claims_given_back = 0

    def _lose(self, step: str, partitions: Sequence[int]) -> set[int]:
        return self.lost.get(step, set()) & set(partitions)

    async def begin(self, claim_ms: int) -> Mapping[int, Begun | StoreUnavailable]:
        del claim_ms
        return {**self.begun, **dict.fromkeys(self._lose("begin", range(4)), LOST)}

    async def verify(
        self, epoch: str, rows: Mapping[int, Sequence[tuple[str, int]]]
    ) -> Mapping[int, Repairs | StoreUnavailable]:
        assert epoch == EPOCH
        self.verified.update(rows)
        return {p: Repairs(len(own)) for p, own in rows.items()} | dict.fromkeys(self._lose("verify", list(rows)), LOST)

    async def distrust(self, marks: Mapping[int, Watermark | None]) -> Mapping[int, StoreUnavailable | None]:
        self.distrusted.update(marks)
        return dict.fromkeys(marks) | dict.fromkeys(self._lose("distrust", list(marks)), LOST)

    async def trust(
        self, begun: Mapping[int, Begun], proven: Watermark, fence_ttl_ms: int
    ) -> Mapping[int, bool | StoreUnavailable]:
        assert (proven, fence_ttl_ms) == (Watermark(EPOCH, 800), CONFIG.fence_ttl_ms)
        self.trusted.update(begun)
        return dict.fromkeys(begun, True) | dict.fromkeys(self._lose("trust", list(begun)), LOST)

    async def give_claims_back(self) -> None:
        self.claims_given_back += 1


class Table:
    """The source: who is refused, which rows changed, and what was completed."""

    def __init__(self) -> None:
        self.deferred: set[int] = set()
        self.other_s: dict[int, float] = {}
        self.changes = 0
        self.since: list[Watermark | None] = []
        self.announced: dict[int, str] = {}
        self.completed: dict[int, int] = {}
        self.pages = [[(key, 1) for key in KEYS]]

    async def tell_epoch(self) -> str:
        return EPOCH

    async def announce(self, servers: Mapping[int, str], limits: FenceLimits) -> Mapping[int, Announced | Deferred]:
        assert limits == CONFIG.fences
        self.announced.update(servers)
        return {
            p: Deferred("somebody else is trusted", EPOCH)
            if p in self.deferred
            else Announced(10 + p, self.other_s.get(p, -5.0), EPOCH)
            for p in servers
        }

    async def count_changes(self, since: Watermark, upto: Watermark, most: int) -> int:
        assert (since.xid or 0) < (upto.xid or 0)
        return min(self.changes, most)

    @asynccontextmanager
    async def snapshot(self, since: Watermark | None, limits: FenceLimits, page_rows: int) -> AsyncIterator[Snapshot]:
        del limits, page_rows
        self.since.append(since)

        async def pages() -> AsyncIterator[Sequence[tuple[str, int]]]:
            for page in self.pages if since is not None else ():
                yield page

        yield Snapshot(EPOCH, 800, pages())

    async def complete(self, cycles: Mapping[int, int]) -> None:
        self.completed.update(cycles)


class Rig:
    """An auditor over both."""

    def __init__(self) -> None:
        self.node, self.table, self.stats = Node(), Table(), Stats()
        history = History()
        history.record(EPOCH, 0.0)

        @asynccontextmanager
        async def open_store() -> AsyncIterator[Node]:
            yield self.node

        @asynccontextmanager
        async def open_source() -> AsyncIterator[Table]:
            yield self.table

        self.audit = PartitionedAudit(open_store, open_source, CONFIG, self.stats, history=history, partitions=PARTITIONS)


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.guarantee("R5")
async def test_cycle_of_all(rig: Rig) -> None:
    """Each partition's rows are compared with its own slots, and each is completed by its own number."""
    cycle = await rig.audit.cycle()
    assert cycle is not None
    assert cycle.trusted
    assert not cycle.clean
    assert rig.node.verified == {p: [(KEYS[p], 1)] for p in range(4)}
    assert rig.table.completed == {p: 10 + p for p in range(4)}
    assert rig.stats.last_audit is not None


@pytest.mark.guarantee("R5")
async def test_claims_of_others(rig: Rig) -> None:
    """Only the partitions that this instance could claim are announced, compared and completed."""
    rig.node.begun[2] = replace(rig.node.begun[2], claimed=False)
    assert await rig.audit.cycle() is not None
    assert set(rig.table.announced) == set(rig.node.verified) == set(rig.table.completed) == {0, 1, 3}
    rig.node.begun = {p: replace(begun, claimed=False) for p, begun in rig.node.begun.items()}
    assert await rig.audit.cycle() is None


@pytest.mark.guarantee("R5")
@pytest.mark.parametrize("step", ["begin", "verify", "trust"])
async def test_node_that_is_lost(rig: Rig, step: str) -> None:
    """Its partitions are not completed, the others are; and the cycle does not count as one that proved the whole cache."""
    rig.node.lost[step] = {1, 3}
    cycle = await rig.audit.cycle()
    assert cycle is not None
    assert not cycle.trusted
    assert set(rig.table.completed) == {0, 2}
    assert {1, 3} & rig.node.trusted.keys() == (set() if step != "trust" else {1, 3})
    assert (rig.stats.audit_failures, rig.stats.last_audit) == (1, None)


async def test_every_node_is_lost(rig: Rig) -> None:
    """Then the cycle fails, as that of one Redis does."""
    rig.node.lost["begin"] = set(range(4))
    with pytest.raises(StoreUnavailable):
        await rig.audit.cycle()


@pytest.mark.guarantee("R5")
async def test_partition_that_waits_for_another_server(rig: Rig) -> None:
    """A partition is not trusted while a fence on its old node may live, nor while somebody else has the trust."""
    rig.table.other_s[0] = 1.0
    rig.table.deferred.add(1)
    cycle = await rig.audit.cycle()
    assert cycle is not None
    assert cycle.deferred == "somebody else is trusted"
    assert set(rig.node.trusted) == set(rig.table.completed) == {2, 3}


@pytest.mark.guarantee("R6")
async def test_partition_that_has_moved(rig: Rig) -> None:
    """A watermark that does not count, and none at all, begin clean; nothing is compared with their slots."""
    rig.node.begun[0] = replace(rig.node.begun[0], counts=False)
    rig.node.begun[1] = replace(rig.node.begun[1], counts=False, watermark=None)
    cycle = await rig.audit.cycle()
    assert cycle is not None
    assert cycle.clean
    assert set(rig.node.verified) == {2, 3}
    assert {p: begun.counts for p, begun in rig.node.trusted.items()} == {0: False, 1: False, 2: True, 3: True}


@pytest.mark.guarantee("R5")
async def test_watermark_of_another_epoch(rig: Rig) -> None:
    """It is replaced by a mark, and its fence is gone, before anything is trusted."""
    rig.node.begun[3] = replace(rig.node.begun[3], watermark=watermark(epoch=OTHER))
    assert await rig.audit.cycle() is not None
    assert rig.node.distrusted == {3: Watermark(EPOCH, None)}
    assert (rig.node.trusted[3].watermark, rig.node.trusted[3].counts) == (Watermark(EPOCH, None), False)


@pytest.mark.guarantee("R6")
@pytest.mark.parametrize(("changes", "clean"), [(STRAGGLE_ROWS, False), (STRAGGLE_ROWS + 1, True)])
async def test_straggler(rig: Rig, changes: int, *, clean: bool) -> None:
    """Rows are read from the oldest watermark on; a partition for whose sake these would be too many starts clean."""
    rig.node.begun[2] = replace(rig.node.begun[2], watermark=watermark(5))
    rig.table.changes = changes
    assert await rig.audit.cycle() is not None
    assert rig.table.since == [watermark() if clean else watermark(5)]
    assert rig.node.trusted[2].counts is not clean
    assert (2 in rig.node.verified) is not clean
