"""The contract of ``Source`` and ``AuditSource``: rows with their epoch, the audit row, snapshots."""

import pytest

from app.cache.history import hash_of, timeline_of
from app.cache.ports import Absent, Announced, AuditRow, AuditSource, Deferred, FenceLimits, Value, Watermark
from tests.contracts.sources import SourceBench

MINUTE_MS = 60_000
ANOTHER_EPOCH = "00000000000000bb"
MINUTE = FenceLimits(ttl_ms=MINUTE_MS, ttl_max_ms=MINUTE_MS, margin_ms=50)
SHORT = FenceLimits(ttl_ms=1_000, ttl_max_ms=MINUTE_MS, margin_ms=50)
OVER = FenceLimits(ttl_ms=-120_000, ttl_max_ms=MINUTE_MS, margin_ms=50)
"""Limits of a fence that has lapsed already when it is announced."""


def is_about(seconds: float, remaining_s: float) -> bool:
    """Whether about that much time remains."""
    return seconds - 10 < remaining_s <= seconds


async def announce(audit: AuditSource, server: str = "red", limits: FenceLimits = MINUTE) -> Announced:
    """Announce a cycle that must not be refused."""
    announced = await audit.announce(server, limits)
    assert isinstance(announced, Announced)
    return announced


async def own_row(truth: SourceBench) -> AuditRow:
    """Return the only audit row of the present epoch."""
    [row] = (await truth.history.standing()).rows.values()
    return row


async def rows_since(audit: AuditSource, since: Watermark | None, page_rows: int = 1_000) -> list[tuple[str, int]]:
    """Return keys and versions that a new snapshot shows, in order of the keys."""
    async with audit.snapshot(since, MINUTE, page_rows) as snapshot:
        return sorted([(key, version) async for page in snapshot.pages for key, version in page])


async def watermark(audit: AuditSource) -> Watermark:
    """Return the watermark from which the next audit begins."""
    async with audit.snapshot(None, MINUTE, 1_000) as snapshot:
        return Watermark(snapshot.epoch, snapshot.xmin)


# ------------------------------------------------------------------------ rows


async def test_load(truth: SourceBench) -> None:
    """A value, a tombstone and an id that never existed each come with their version, and all with one epoch."""
    await truth.change("mug", "jug")
    await truth.change("mug")
    await truth.delete("jug")
    states = await truth.source.load(["never", "mug", "jug"])
    epoch = states["mug"].epoch
    assert int(hash_of(epoch), 16) >= 0
    assert timeline_of(epoch) is not None
    assert await truth.history.tell_epoch() == epoch
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
    """Versions continue after a tombstone."""
    await truth.change("mug")
    await truth.delete("mug")
    await truth.change("mug")
    state = (await truth.source.load(["mug"]))["mug"]
    assert (isinstance(state, Value), state.version) == (True, 3)


async def test_load_beside_an_open_transaction(truth: SourceBench) -> None:
    """Uncommitted changes are not loaded."""
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
    standing = await truth.history.standing()
    async with truth.open() as audit:
        found = await watermark(audit)
        assert await rows_since(audit, Watermark(before, 3)) == []
    assert isinstance(state, Absent)
    assert state.epoch == found.epoch
    assert (standing.epoch, standing.rows) == (found.epoch, {})
    assert found.epoch != before


# ------------------------------------------------------------------- audit row


@pytest.mark.guarantee("R4")
async def test_standing_before_any_audit(truth: SourceBench) -> None:
    """Nobody waits for a fence if none was ever set."""
    row = await own_row(truth)
    assert (row.announced, row.completed) == (0, 0)
    assert row.remaining_s < 0


async def test_standing_without_an_audit_row(truth: SourceBench) -> None:
    """Without an audit row there is only the present epoch."""
    await truth.forget()
    standing = await truth.history.standing()
    assert standing.rows == {}
    assert standing.epoch


async def test_announcement(truth: SourceBench) -> None:
    """Cycles are numbered one by one, visible to everybody at once, with the life of their fence."""
    async with truth.open() as audit:
        first = await announce(audit)
        row = await own_row(truth)
        assert (row.announced, row.completed) == (first.cycle, 0)
        assert is_about(60, row.remaining_s)
        assert first.other_remaining_s <= 0
        assert first.epoch == await truth.history.tell_epoch() == await audit.tell_epoch()
    async with truth.open() as audit:
        second = await announce(audit)
    assert (first.cycle, second.cycle) == (1, 2)
    assert second.other_remaining_s <= 0


@pytest.mark.guarantee("R5")
async def test_announcement_of_a_shorter_fence(truth: SourceBench) -> None:
    """A shorter announcement does not shorten an earlier one, whose fence may still live."""
    async with truth.open() as audit:
        await announce(audit)
        await announce(audit, limits=SHORT)
    assert is_about(60, (await own_row(truth)).remaining_s)


@pytest.mark.guarantee("R5")
async def test_announcement_of_another_server(truth: SourceBench) -> None:
    """The incumbent keeps the trust while its fence may live: an announcement for another server changes nothing."""
    async with truth.open() as audit:
        await announce(audit)
        before = await own_row(truth)
        for _ in range(2):
            refused = await audit.announce("blue", MINUTE)
            assert isinstance(refused, Deferred)
            assert "red" in refused.reason
            assert refused.epoch == await truth.history.tell_epoch()
        after = await own_row(truth)
        assert (after.announced, after.completed) == (before.announced, before.completed)
        assert after.remaining_s <= before.remaining_s
        assert (await announce(audit)).other_remaining_s <= 0


async def test_announcement_of_another_server_when_the_fence_has_lapsed(truth: SourceBench) -> None:
    """After the incumbent's fence has lapsed another server takes over, and its first cycle waits for nothing more."""
    async with truth.open() as audit:
        await announce(audit, limits=OVER)
        taken = await announce(audit, "blue")
        assert taken.other_remaining_s <= 0
        assert isinstance(await audit.announce("red", MINUTE), Deferred)


async def test_announcement_of_another_server_in_another_epoch(truth: SourceBench) -> None:
    """A row of another epoch names no incumbent: the longest fence is assumed, and the first to announce takes over."""
    async with truth.open() as audit:
        await announce(audit)
        await truth.truncate()
        assert is_about(60, (await announce(audit, "blue")).other_remaining_s)


@pytest.mark.guarantee("R5")
@pytest.mark.parametrize("known", [True, False])
async def test_announcement_in_an_unknown_history(truth: SourceBench, known: bool) -> None:  # noqa: FBT001 - a parameter of the scenario
    """If the row is missing or of another epoch, the longest fence is assumed on any server."""
    async with truth.open() as audit:
        await announce(audit, limits=SHORT)
        if known:
            await truth.truncate()
        else:
            await truth.forget()
        announced = await announce(audit, limits=SHORT)
        assert is_about(60, announced.other_remaining_s)
        assert is_about(60, (await own_row(truth)).remaining_s)
        again = await announce(audit, limits=FenceLimits(1_000, 5 * MINUTE_MS, 50))
    assert again.cycle == announced.cycle + 1
    assert is_about(60, again.other_remaining_s)


async def test_announcement_beside_another_namespace(truth: SourceBench) -> None:
    """While another namespace of the table may be trusted, announcements are refused, and no longer."""
    async with truth.open() as audit, truth.open(namespace="another.2") as newcomer:
        await announce(audit)
        refused = await newcomer.announce("red", MINUTE)
        assert isinstance(refused, Deferred)
        assert truth.namespace in refused.reason
        assert len((await truth.history.standing()).rows) == 1
    await truth.forget_time()
    async with truth.open() as audit, truth.open(namespace="another.2") as newcomer:
        assert (await announce(newcomer)).other_remaining_s <= 0
        assert set((await truth.history.standing()).rows) == {truth.namespace, "another.2"}
        assert isinstance(await audit.announce("red", MINUTE), Deferred)
        async with audit.snapshot(None, MINUTE, 10) as snapshot:
            assert snapshot.rival == "another.2"
        async with newcomer.snapshot(None, MINUTE, 10) as snapshot:
            assert snapshot.rival == ""


async def test_announcement_while_barred(truth: SourceBench) -> None:
    """The auditors of a barred namespace announce nothing until it is allowed again."""
    async with truth.open() as audit:
        await announce(audit)
        await truth.bar(barred=True)
        refused = await audit.announce("red", MINUTE)
        assert isinstance(refused, Deferred)
        assert "barred" in refused.reason
        await truth.bar(barred=False)
        await announce(audit)


@pytest.mark.guarantee("R4")
async def test_adoption_of_a_known_history(truth: SourceBench) -> None:
    """With an audit row of the present epoch, adopting does nothing."""
    async with truth.open() as audit:
        await announce(audit, limits=SHORT)
    before, epoch = await own_row(truth), await truth.history.tell_epoch()
    adopted = await truth.history.adopt(MINUTE_MS)
    after = await own_row(truth)
    assert (after.announced, after.completed, adopted.epoch) == (before.announced, before.completed, epoch)
    assert after.remaining_s <= before.remaining_s


async def test_adoption_beside_another_namespace(truth: SourceBench) -> None:
    """One row of the present epoch is enough: adopting another would look like an announcement and take the trust away."""
    await truth.forget()
    async with truth.open(namespace="another.2") as audit:
        await announce(audit, limits=SHORT)
    assert set((await truth.history.adopt(MINUTE_MS)).rows) == {"another.2"}


@pytest.mark.guarantee("R4")
@pytest.mark.parametrize("known", [True, False])
async def test_adoption_of_an_unknown_history(truth: SourceBench, known: bool) -> None:  # noqa: FBT001 - a parameter of the scenario
    """After adopting, writers and audits assume the longest fence on any server; adopting again changes nothing."""
    async with truth.open() as audit:
        before = (await announce(audit, limits=SHORT)).cycle
        if known:
            await truth.truncate()
        else:
            await truth.forget()
            before = 0
        await truth.history.adopt(MINUTE_MS)
        adopted = await own_row(truth)
        assert adopted.announced == before + 1
        assert is_about(60, adopted.remaining_s)
        await truth.history.adopt(5 * MINUTE_MS)
        again = await own_row(truth)
        assert again.announced == adopted.announced
        assert again.remaining_s <= adopted.remaining_s
    await truth.settle_server("red")
    async with truth.open() as audit:
        assert is_about(60, (await announce(audit, limits=SHORT)).other_remaining_s)


async def test_completion(truth: SourceBench) -> None:
    """The newest completed cycle counts; an older one that ends later does not lower it."""
    async with truth.open() as slow, truth.open() as quick:
        first = await announce(slow)
        second = await announce(quick)
        await quick.complete(second.cycle)
        await slow.complete(first.cycle)
    row = await own_row(truth)
    assert (row.announced, row.completed) == (2, 2)


@pytest.mark.guarantee("R5")
async def test_completion_in_a_row_that_came_back(truth: SourceBench) -> None:
    """A cycle that a restored row does not know is not completed there: the row will give its number to another cycle."""
    async with truth.open() as audit:
        await announce(audit)
        await truth.remember()
        announced = await announce(audit)
        await truth.put_back()
        await audit.complete(announced.cycle)
    assert (await own_row(truth)).completed == 0


@pytest.mark.guarantee("R5")
@pytest.mark.parametrize("adopts", [True, False])
async def test_completion_in_another_epoch(truth: SourceBench, adopts: bool) -> None:  # noqa: FBT001 - a parameter of the scenario
    """Once a cycle was announced in another epoch, a cycle of the epoch before completes nothing."""
    async with truth.open() as audit:
        announced = await announce(audit)
        await truth.truncate()
        if adopts:
            await truth.history.adopt(MINUTE_MS)
        else:
            async with truth.open() as other:
                await announce(other)
        await audit.complete(announced.cycle)
    assert (await own_row(truth)).completed == 0


# ------------------------------------------------------------------- snapshots


@pytest.mark.guarantee("G4")
async def test_snapshot_since_a_watermark(truth: SourceBench) -> None:
    """Exactly the rows changed since the watermark come, tombstones included, with their present versions."""
    await truth.change("before", "mug", "jug")
    async with truth.open() as audit:
        since = await watermark(audit)
        assert await rows_since(audit, since) == []
        await truth.change("mug")
        await truth.change("mug", "new")
        await truth.delete("jug")
        assert await rows_since(audit, since) == [("jug", 2), ("mug", 3), ("new", 1)]
        later = await watermark(audit)
        assert (later.xid or 0) > (since.xid or 0)
        assert await rows_since(audit, later) == []


@pytest.mark.guarantee("R6")
@pytest.mark.parametrize("since", [None, Watermark(ANOTHER_EPOCH, 3), Watermark(ANOTHER_EPOCH, None)])
async def test_snapshot_without_a_watermark_of_its_epoch(truth: SourceBench, since: Watermark | None) -> None:
    """Without a watermark of this epoch a snapshot has no pages, because every slot will be deleted."""
    await truth.change("mug")
    async with truth.open() as audit:
        assert await rows_since(audit, since) == []


@pytest.mark.guarantee("R5")
async def test_snapshot_beside_an_open_transaction(truth: SourceBench) -> None:
    """A row whose transaction was open when the snapshot was taken is found by the audit after it."""
    await truth.change("mug")
    async with truth.open() as audit:
        async with truth.changing("mug"):
            await truth.history.adopt(MINUTE_MS)
            since = await watermark(audit)
        await truth.source.load(["mug"])
        assert await rows_since(audit, since) == [("mug", 2)]


async def test_snapshot_is_repeatable(truth: SourceBench) -> None:
    """Changes committed after the snapshot are not in its pages."""
    await truth.change("mug")
    async with truth.open() as audit:
        since = await watermark(audit)
        await truth.change("mug")
        async with audit.snapshot(since, MINUTE, 1_000) as snapshot:
            await truth.change("mug", "jug")
            assert [[tuple(row) for row in page] async for page in snapshot.pages] == [[("mug", 2)]]


@pytest.mark.guarantee("G6")
@pytest.mark.parametrize(("rows", "pages"), [(4, [2, 2]), (5, [2, 2, 1]), (1, [1]), (0, [])])
async def test_snapshot_in_pages(truth: SourceBench, rows: int, pages: list[int]) -> None:
    """No page is larger than asked for, none is empty, and no row is missing."""
    async with truth.open() as audit:
        since = await watermark(audit)
        for number in range(rows):
            await truth.change(f"key-{number}")
        async with audit.snapshot(since, MINUTE, 2) as snapshot:
            found = [list(page) async for page in snapshot.pages]
    assert [len(page) for page in found] == pages
    assert sorted(key for page in found for key, _ in page) == [f"key-{number}" for number in range(rows)]
