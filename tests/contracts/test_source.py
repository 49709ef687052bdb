"""The contract of ``Source`` and ``AuditSource``: rows with their epoch, the audit row, snapshots."""

import pytest

from app.cache.ports import Absent, AuditSource, Value, Watermark
from tests.contracts.sources import SourceBench

MINUTE_MS = 60_000
ANOTHER_EPOCH = "00000000000000bb"


def is_about(seconds: float, remaining_s: float) -> bool:
    """Whether that much time is left, but for what the test took."""
    return seconds - 10 < remaining_s <= seconds


async def rows_since(audit: AuditSource, since: Watermark | None, page_rows: int = 1_000) -> list[tuple[str, int]]:
    """Keys and versions that a snapshot of its own shows, in order of the keys."""
    async with audit.snapshot(since, page_rows) as snapshot:
        return sorted([(key, version) async for page in snapshot.pages for key, version in page])


async def watermark(audit: AuditSource) -> Watermark:
    """Where the next audit begins."""
    async with audit.snapshot(None, 1_000) as snapshot:
        return Watermark(snapshot.epoch, snapshot.xmin)


# ------------------------------------------------------------------------ rows


async def test_load(truth: SourceBench) -> None:
    """A value, a tombstone and an id that never was come each with its version, and all with one epoch."""
    await truth.change("mug", "jug")
    await truth.change("mug")
    await truth.delete("jug")
    states = await truth.source.load(["never", "mug", "jug"])
    epoch = states["mug"].epoch
    assert (len(epoch), int(epoch, 16) >= 0) == (16, True)
    assert isinstance(states["mug"], Value)
    assert (states["mug"].key, states["mug"].version) == ("mug", 2)
    assert states["jug"] == Absent("jug", epoch, 2)
    assert states["never"] == Absent("never", epoch, 0)
    assert set(states) == {"never", "mug", "jug"}


async def test_load_of_the_same_row_twice(truth: SourceBench) -> None:
    """The payload is a function of the row: the same row gives the same bytes, another version others."""
    await truth.change("mug")
    first, second = [(await truth.source.load(["mug"]))["mug"] for _ in range(2)]
    await truth.change("mug")
    third = (await truth.source.load(["mug"]))["mug"]
    assert first == second
    assert isinstance(first, Value)
    assert isinstance(third, Value)
    assert first.payload != third.payload


async def test_load_after_a_deletion_was_undone(truth: SourceBench) -> None:
    """Versions go on over a tombstone."""
    await truth.change("mug")
    await truth.delete("mug")
    await truth.change("mug")
    state = (await truth.source.load(["mug"]))["mug"]
    assert (isinstance(state, Value), state.version) == (True, 3)


async def test_load_beside_an_open_transaction(truth: SourceBench) -> None:
    """What is not committed is not there."""
    await truth.change("mug")
    async with truth.changing("mug"):
        assert (await truth.source.load(["mug"]))["mug"].version == 1
    assert (await truth.source.load(["mug"]))["mug"].version == 2


async def test_truncation(truth: SourceBench) -> None:
    """An emptied table has another epoch everywhere: its versions must not be compared with older ones."""
    await truth.change("mug")
    before = (await truth.source.load(["mug"]))["mug"].epoch
    await truth.truncate()
    state = (await truth.source.load(["mug"]))["mug"]
    standing = await truth.source.standing()
    async with truth.open() as audit:
        found = await watermark(audit)
        assert await rows_since(audit, Watermark(before, 3)) == []
    assert isinstance(state, Absent)
    assert state.epoch == found.epoch
    assert (standing.epoch, standing.audited_epoch) == (found.epoch, before)
    assert found.epoch != before


# ------------------------------------------------------------------- audit row


async def test_standing_before_any_audit(truth: SourceBench) -> None:
    """Where no fence was ever set, none is waited for."""
    standing = await truth.source.standing()
    assert (standing.announced, standing.completed, standing.audited_epoch) == (0, 0, standing.epoch)
    assert standing.remaining_s < 0


async def test_standing_without_an_audit_row(truth: SourceBench) -> None:
    """A missing row says nothing of the present epoch."""
    await truth.forget()
    standing = await truth.source.standing()
    assert (standing.announced, standing.completed, standing.audited_epoch) == (0, 0, "")
    assert standing.epoch


async def test_announcement(truth: SourceBench) -> None:
    """Cycles are numbered one by one, at once for everybody, and say how long their fence may live."""
    async with truth.open() as audit:
        first = await audit.announce("red", MINUTE_MS, 2 * MINUTE_MS)
        standing = await truth.source.standing()
        assert (standing.announced, standing.completed, standing.audited_epoch) == (first.cycle, 0, standing.epoch)
        assert is_about(60, standing.remaining_s)
        assert first.other_remaining_s <= 0
    async with truth.open() as audit:
        second = await audit.announce("red", MINUTE_MS, 2 * MINUTE_MS)
    assert (first.cycle, second.cycle) == (1, 2)
    assert second.other_remaining_s <= 0


async def test_announcement_of_a_shorter_fence(truth: SourceBench) -> None:
    """An earlier, longer fence may still live: what was announced is never taken back."""
    async with truth.open() as audit:
        await audit.announce("red", MINUTE_MS, MINUTE_MS)
        await audit.announce("red", 1_000, MINUTE_MS)
    assert is_about(60, (await truth.source.standing()).remaining_s)


async def test_announcement_of_another_server(truth: SourceBench) -> None:
    """A fence on the server before may live as long as announced, however often the new one is announced."""
    async with truth.open() as audit:
        await audit.announce("red", MINUTE_MS, MINUTE_MS)
        for _ in range(2):
            announced = await audit.announce("blue", 2 * MINUTE_MS, 2 * MINUTE_MS)
            assert is_about(60, announced.other_remaining_s)
        announced = await audit.announce("red", 1_000, MINUTE_MS)
    assert is_about(120, announced.other_remaining_s)
    assert is_about(120, (await truth.source.standing()).remaining_s)


@pytest.mark.parametrize("known", [True, False])
async def test_announcement_in_an_unknown_history(truth: SourceBench, known: bool) -> None:  # noqa: FBT001 - a parameter of the scenario
    """A row that is missing or of another epoch tells nothing of the fences that live: the longest is assumed, anywhere."""
    async with truth.open() as audit:
        await audit.announce("red", 1_000, MINUTE_MS)
        if known:
            await truth.truncate()
        else:
            await truth.forget()
        announced = await audit.announce("red", 1_000, MINUTE_MS)
        assert is_about(60, announced.other_remaining_s)
        assert is_about(60, (await truth.source.standing()).remaining_s)
        again = await audit.announce("red", 1_000, 5 * MINUTE_MS)
    assert again.cycle == announced.cycle + 1
    assert is_about(60, again.other_remaining_s)


async def test_adoption_of_a_known_history(truth: SourceBench) -> None:
    """Where an audit row speaks of the present epoch, nothing is announced."""
    async with truth.open() as audit:
        await audit.announce("red", 1_000, MINUTE_MS)
    before = await truth.source.standing()
    after = await truth.source.adopt(MINUTE_MS)
    assert (after.announced, after.completed, after.epoch) == (before.announced, before.completed, before.epoch)
    assert after.remaining_s <= before.remaining_s


@pytest.mark.parametrize("known", [True, False])
async def test_adoption_of_an_unknown_history(truth: SourceBench, known: bool) -> None:  # noqa: FBT001 - a parameter of the scenario
    """Writers, and audits after them, assume the longest fence, on whatever server; once."""
    async with truth.open() as audit:
        before = (await audit.announce("red", 1_000, MINUTE_MS)).cycle
        if known:
            await truth.truncate()
        else:
            await truth.forget()
            before = 0
        adopted = await truth.source.adopt(MINUTE_MS)
        assert (adopted.announced, adopted.audited_epoch) == (before + 1, adopted.epoch)
        assert is_about(60, adopted.remaining_s)
        again = await truth.source.adopt(5 * MINUTE_MS)
        assert again.announced == adopted.announced
        assert again.remaining_s <= adopted.remaining_s
        announced = await audit.announce("red", 1_000, 5 * MINUTE_MS)
    assert is_about(60, announced.other_remaining_s)


async def test_completion(truth: SourceBench) -> None:
    """The newest completed cycle counts; one that ends late takes nothing back."""
    async with truth.open() as slow, truth.open() as quick:
        first = await slow.announce("red", 1_000, MINUTE_MS)
        second = await quick.announce("red", 1_000, MINUTE_MS)
        await quick.complete(second.cycle)
        await slow.complete(first.cycle)
    standing = await truth.source.standing()
    assert (standing.announced, standing.completed) == (2, 2)


async def test_completion_in_a_row_that_came_back(truth: SourceBench) -> None:
    """A row from a dump that does not know the cycle will give its number to another one: it is not completed."""
    async with truth.open() as audit:
        await audit.announce("red", 1_000, MINUTE_MS)
        await truth.remember()
        announced = await audit.announce("red", 1_000, MINUTE_MS)
        await truth.put_back()
        await audit.complete(announced.cycle)
    assert (await truth.source.standing()).completed == 0


@pytest.mark.parametrize("adopts", [True, False])
async def test_completion_in_another_epoch(truth: SourceBench, adopts: bool) -> None:  # noqa: FBT001 - a parameter of the scenario
    """Once anybody announced in another epoch, a cycle of the one before says nothing."""
    async with truth.open() as audit:
        announced = await audit.announce("red", 1_000, MINUTE_MS)
        await truth.truncate()
        if adopts:
            await truth.source.adopt(MINUTE_MS)
        else:
            async with truth.open() as other:
                await other.announce("red", 1_000, MINUTE_MS)
        await audit.complete(announced.cycle)
    assert (await truth.source.standing()).completed == 0


# ------------------------------------------------------------------- snapshots


async def test_snapshot_since_a_watermark(truth: SourceBench) -> None:
    """Rows changed since then come with their present versions, tombstones too, and no others."""
    await truth.change("before", "mug", "jug")
    async with truth.open() as audit:
        since = await watermark(audit)
        assert await rows_since(audit, since) == []
        await truth.change("mug")
        await truth.change("mug", "new")
        await truth.delete("jug")
        assert await rows_since(audit, since) == [("jug", 2), ("mug", 3), ("new", 1)]
        later = await watermark(audit)
        assert later.xid > since.xid
        assert await rows_since(audit, later) == []


@pytest.mark.parametrize("since", [None, Watermark(ANOTHER_EPOCH, 3)])
async def test_snapshot_without_a_watermark_of_its_epoch(truth: SourceBench, since: Watermark | None) -> None:
    """There is nothing to compare: every slot has to go."""
    await truth.change("mug")
    async with truth.open() as audit:
        assert await rows_since(audit, since) == []


async def test_snapshot_beside_an_open_transaction(truth: SourceBench) -> None:
    """A row whose transaction was open when the snapshot was taken is found by the audit after it."""
    await truth.change("mug")
    async with truth.open() as audit:
        async with truth.changing("mug"):
            await truth.source.adopt(MINUTE_MS)
            since = await watermark(audit)
        await truth.source.load(["mug"])
        assert await rows_since(audit, since) == [("mug", 2)]


async def test_snapshot_is_repeatable(truth: SourceBench) -> None:
    """What commits after the snapshot was taken is not in its pages."""
    await truth.change("mug")
    async with truth.open() as audit:
        since = await watermark(audit)
        await truth.change("mug")
        async with audit.snapshot(since, 1_000) as snapshot:
            await truth.change("mug", "jug")
            assert [[tuple(row) for row in page] async for page in snapshot.pages] == [[("mug", 2)]]


@pytest.mark.parametrize(("rows", "pages"), [(4, [2, 2]), (5, [2, 2, 1]), (1, [1]), (0, [])])
async def test_snapshot_in_pages(truth: SourceBench, rows: int, pages: list[int]) -> None:
    """No page is larger than asked for, none is empty, and no row is lost between two."""
    async with truth.open() as audit:
        since = await watermark(audit)
        for number in range(rows):
            await truth.change(f"key-{number}")
        async with audit.snapshot(since, 2) as snapshot:
            found = [list(page) async for page in snapshot.pages]
    assert [len(page) for page in found] == pages
    assert sorted(key for page in found for key, _ in page) == [f"key-{number}" for number in range(rows)]
