"""The contract of ``SharedAuditStore`` and ``SharedAuditSource``: the cycles of namespaces that share connections."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import TypeVar

import pytest

from app.cache import slot
from app.cache.errors import SourceUnavailable, StoreUnavailable
from app.cache.ports import (
    Announced,
    AuditRow,
    Begun,
    Deferred,
    FirstPage,
    Repairs,
    SharedAuditSource,
    SharedAuditStore,
    Value,
    Watermark,
)
from tests.contracts.shared import (
    MemorySpaces,
    MemoryTables,
    SharedSourceBench,
    SharedStoreBench,
    open_postgres_tables,
    open_redis_spaces,
)
from tests.contracts.test_source import MINUTE

EPOCH, OTHER_EPOCH = "7000000000000000001.00000002.00000000000000aa", "7000000000000000001.00000002.00000000000000bb"
Result = TypeVar("Result")


@pytest.fixture
async def spaces(redis_at: tuple[str, str] | None) -> AsyncIterator[SharedStoreBench]:
    """Two namespaces: of the fake, or of Redis."""
    if redis_at is None:
        yield MemorySpaces()
        return
    async with open_redis_spaces(*redis_at) as bench:
        yield bench


@pytest.fixture
async def tables(postgres_at: tuple[str, str] | None) -> AsyncIterator[SharedSourceBench]:
    """Two tables: of the fake, or in PostgreSQL."""
    if postgres_at is None:
        yield MemoryTables()
        return
    async with open_postgres_tables(*postgres_at) as bench:
        yield bench


async def begin(audit: SharedAuditStore, spaces: SharedStoreBench) -> list[Begun]:
    """Begin a cycle of both namespaces, each with the claim."""
    async with asyncio.timeout(5):
        begun: dict[str, Begun] = {}
        while missing := [name for name in spaces.spaces if name not in begun]:
            found = await audit.begin([(name, 1) for name in missing])
            begun |= {name: one for name, one in zip(missing, found, strict=True) if one.claimed}
            await asyncio.sleep(0)
    return [begun[name] for name in spaces.spaces]


# ----------------------------------------------------------------------- store


@pytest.mark.guarantee("R5")
async def test_begin_in_two_namespaces(spaces: SharedStoreBench) -> None:
    """Each namespace has its own claim and watermark; the server is the same."""
    products, suppliers = spaces.spaces
    seen = Watermark(EPOCH, 700, "0" * 16, "elsewhere:00")
    await spaces.spaces[suppliers].put_watermark(seen)
    other, audit = await spaces.open(), await spaces.open()
    [held] = await other.begin([(suppliers, 60_000)])
    first, second = await audit.begin([(products, 60_000), (suppliers, 60_000)])
    assert (held.claimed, first.claimed, second.claimed) == (True, True, False)
    assert (first.watermark, second.watermark) == (None, seen)
    assert first.server == second.server == held.server


async def test_claims_are_given_back_one_by_one(spaces: SharedStoreBench) -> None:
    """Only the claim that is named is given back, and never somebody else's."""
    products, suppliers = spaces.spaces
    audit, other = await spaces.open(), await spaces.open()
    both = [(products, 60_000), (suppliers, 60_000)]
    assert all(one.claimed for one in await audit.begin(both))
    await other.give_claim_back(suppliers)
    assert not any(one.claimed for one in await other.begin(both))
    await audit.give_claim_back(products)
    await audit.give_claim_back(products)
    assert [one.claimed for one in await other.begin(both)] == [True, False]
    await audit.give_claim_back(products)
    assert [one.claimed for one in await audit.begin(both)] == [False, False]


async def test_verify_in_two_namespaces(spaces: SharedStoreBench) -> None:
    """Rows are compared with the slots of their own namespace, though another one has a slot of the same key."""
    products, suppliers = spaces.spaces
    for bench in spaces.spaces.values():
        await bench.put("mug", slot.encode(Value("mug", EPOCH, 2, b"{}"), "0" * 16))
    audit = await spaces.open()
    repairs = await audit.verify([(products, EPOCH, [("mug", 2), ("jug", 1)]), (suppliers, EPOCH, [("mug", 3)])])
    assert repairs == [Repairs(checked=2), Repairs(checked=1, older=1)]
    assert await spaces.spaces[products].raw("mug") is not None
    assert await spaces.spaces[suppliers].raw("mug") is None


@pytest.mark.guarantee("R5")
async def test_trust_in_two_namespaces(spaces: SharedStoreBench) -> None:
    """Each namespace gets its own watermark and fence; one that may not be trusted leaves the other's alone."""
    products, suppliers = spaces.spaces
    audit = await spaces.open()
    first, second = await begin(audit, spaces)
    await spaces.spaces[suppliers].put_watermark(
        other := Watermark(OTHER_EPOCH, 5, "0" * 16, "elsewhere:00")
    )  # since the cycle began
    proven = Watermark(EPOCH, 700)
    assert await audit.trust([(products, first, proven, 60_000), (suppliers, second, proven, 60_000)]) == [True, False]
    found = await spaces.spaces[products].watermark()
    assert found is not None
    assert (found.epoch, found.xid) == (proven.epoch, proven.xid)
    assert await spaces.spaces[suppliers].watermark() == other
    assert await spaces.spaces[products].fence() is not None
    assert await spaces.spaces[suppliers].fence() is None


async def test_mark_in_one_namespace(spaces: SharedStoreBench) -> None:
    """Distrust takes the fence of one namespace."""
    products, suppliers = spaces.spaces
    audit = await spaces.open()
    proven = Watermark(EPOCH, 700)
    begun = await begin(audit, spaces)
    assert all(await audit.trust([(name, one, proven, 60_000) for name, one in zip(spaces.spaces, begun, strict=True)]))
    await audit.distrust(suppliers, Watermark(OTHER_EPOCH, None))
    assert await spaces.spaces[suppliers].fence() is None
    assert await spaces.spaces[suppliers].watermark() == Watermark(OTHER_EPOCH, None)
    assert await spaces.spaces[products].fence() is not None
    found = await spaces.spaces[products].watermark()
    assert found is not None
    assert (found.epoch, found.xid) == (proven.epoch, proven.xid)


async def test_connection_that_is_lost(spaces: SharedStoreBench) -> None:
    """A cycle never reconnects: every further step fails, but to give a claim back."""
    audit = await spaces.open()
    begun = await begin(audit, spaces)
    await spaces.cut()
    with pytest.raises(StoreUnavailable):
        await audit.verify([(name, EPOCH, []) for name in spaces.spaces])
    with pytest.raises(StoreUnavailable):
        await audit.trust([(name, one, Watermark(EPOCH, 7), 60_000) for name, one in zip(spaces.spaces, begun, strict=True)])
    for name in spaces.spaces:
        await audit.give_claim_back(name)


# ---------------------------------------------------------------------- source


async def announce(audit: SharedAuditSource, tables: SharedSourceBench) -> list[Announced]:
    """Announce a cycle of both tables, neither of which may be refused."""
    announced = await audit.announce([(table.namespace, "red", MINUTE) for table in tables.tables])
    assert all(isinstance(one, Announced) for one in announced)
    return [one for one in announced if isinstance(one, Announced)]


async def pages(
    audit: SharedAuditSource, tables: SharedSourceBench, since: Sequence[Watermark | None], rows: int = 9
) -> list[FirstPage]:
    """Take a snapshot of both tables, neither of which may be refused."""
    found = await audit.snapshot(
        [(table.namespace, watermark, MINUTE, rows) for table, watermark in zip(tables.tables, since, strict=True)]
    )
    assert all(isinstance(one, FirstPage) for one in found)
    return [one for one in found if isinstance(one, FirstPage)]


async def row_of(tables: SharedSourceBench, number: int) -> AuditRow:
    """Return the only audit row of a table."""
    [row] = (await tables.tables[number].history.standing()).rows.values()
    return row


async def results(call: Awaitable[Sequence[Result]]) -> list[Result | SourceUnavailable]:
    """Return what each request got; when all failed together, the error that they share."""
    try:
        return list(await call)
    except SourceUnavailable as error:
        return [error, error]


@pytest.mark.guarantee("R5")
async def test_announcements_of_two_tables(tables: SharedSourceBench) -> None:
    """Each table's cycle is numbered and completed in its own audit row."""
    products, suppliers = tables.tables
    async with tables.open() as audit:
        [alone] = await audit.announce([(suppliers.namespace, "red", MINUTE)])
        first, second = await announce(audit, tables)
        assert isinstance(alone, Announced)
        assert (alone.cycle, second.cycle) == (first.cycle, first.cycle + 1)
        assert await audit.tell_epoch(suppliers.namespace) == second.epoch
        assert await audit.complete([(suppliers.namespace, second.cycle, second.epoch)]) == [None]
    assert [(await row_of(tables, number)).completed for number in (0, 1)] == [0, second.cycle]
    assert [(await row_of(tables, number)).announced for number in (0, 1)] == [first.cycle, second.cycle]
    assert (await products.history.standing()).rows.keys() != (await suppliers.history.standing()).rows.keys()


@pytest.mark.guarantee("R5")
async def test_completions_of_two_tables(tables: SharedSourceBench) -> None:
    """One call completes both; a cycle that was announced in another epoch completes nothing, and does not hinder the other."""
    async with tables.open() as audit:
        first, second = await announce(audit, tables)
        requests = [
            (tables.tables[0].namespace, first.cycle, first.epoch),
            (tables.tables[1].namespace, second.cycle, OTHER_EPOCH),
        ]
        assert await audit.complete(requests) == [None, None]
    assert [(await row_of(tables, number)).completed for number in (0, 1)] == [first.cycle, 0]


@pytest.mark.guarantee("R5")
async def test_announcement_that_is_deferred_beside_another(tables: SharedSourceBench) -> None:
    """Another server's fence may be live for one table; the other's cycle is announced all the same."""
    products, suppliers = tables.tables
    async with tables.open() as audit:
        await audit.announce([(suppliers.namespace, "blue", MINUTE)])
        requests = [(products.namespace, "red", MINUTE), (suppliers.namespace, "red", MINUTE)]
        first, second = await audit.announce(requests)
    assert isinstance(first, Announced)
    assert isinstance(second, Deferred)


async def test_table_without_a_trigger_beside_another(tables: SharedSourceBench) -> None:
    """A table that must not be cached fails alone, in every step."""
    products, suppliers = tables.tables
    async with tables.open() as audit:
        first, _ = await announce(audit, tables)
        async with tables.without_trigger():
            with pytest.raises(SourceUnavailable):
                await audit.tell_epoch(suppliers.namespace)
            announced = await audit.announce([(table.namespace, "red", MINUTE) for table in tables.tables])
            assert isinstance(announced[0], Announced)
            assert isinstance(announced[1], SourceUnavailable)
            found = await audit.snapshot([(table.namespace, None, MINUTE, 9) for table in tables.tables])
            assert isinstance(found[0], FirstPage)
            assert isinstance(found[1], SourceUnavailable)
        assert await audit.tell_epoch(products.namespace) == first.epoch
        assert await audit.tell_epoch(suppliers.namespace)


@pytest.mark.guarantee("R5")
async def test_snapshot_of_two_tables(tables: SharedSourceBench) -> None:
    """One snapshot shows of each table what changed since its own watermark."""
    products, suppliers = tables.tables
    await products.change("mug")
    async with tables.open() as audit:
        before = await pages(audit, tables, (None, None))
        await products.change("jug")
        await suppliers.change("suppliers/acme")
        later = await pages(audit, tables, (None, None))
        marks = [Watermark(page.epoch, page.xmin) for page in before]
        assert [page.rows for page in await pages(audit, tables, marks)] == [[("jug", 1)], [("suppliers/acme", 1)]]
        mixed = [marks[0], Watermark(later[1].epoch, later[1].xmin)]
        assert [page.rows for page in await pages(audit, tables, mixed)] == [[("jug", 1)], []]
    assert len({page.xmin for page in before}) == 1
    assert {page.rival for page in before} == {""}


async def test_more_rows_than_a_page_beside_another(tables: SharedSourceBench) -> None:
    """A table with more changes than a page says so, and the other one's page is whole."""
    products, suppliers = tables.tables
    async with tables.open() as audit:
        marks = [Watermark(page.epoch, page.xmin) for page in await pages(audit, tables, (None, None))]
        await products.change("mug")
        await suppliers.change("suppliers/acme", "suppliers/best")
        assert [page.rows for page in await pages(audit, tables, marks, 1)] == [[("mug", 1)], None]


async def test_table_that_is_locked_beside_another(tables: SharedSourceBench) -> None:
    """The snapshot waits for no lock: a locked table fails alone, at once, and its session goes on."""
    async with tables.open() as audit:
        async with tables.locked(), asyncio.timeout(60):
            found = await audit.snapshot([(table.namespace, None, MINUTE, 9) for table in tables.tables])
            assert isinstance(found[0], FirstPage)
            assert isinstance(found[1], SourceUnavailable)
        await pages(audit, tables, (None, None))
        async with tables.locked(), asyncio.timeout(60):  # the transaction of the snapshot is over: nothing holds the table
            assert await audit.tell_epoch(tables.tables[0].namespace)


@pytest.mark.guarantee("R5")
async def test_session_that_is_lost(tables: SharedSourceBench) -> None:
    """A cycle never reconnects: every further step fails for both tables."""
    try:
        async with tables.open() as audit:
            announced = await announce(audit, tables)
            await tables.cut()
            names = [table.namespace for table in tables.tables]
            for _ in range(2):
                found = await results(audit.snapshot([(name, None, MINUTE, 9) for name in names]))
                assert [type(one) for one in found] == [SourceUnavailable] * 2
            completions = [(name, one.cycle, one.epoch) for name, one in zip(names, announced, strict=True)]
            assert [type(one) for one in await results(audit.complete(completions))] == [SourceUnavailable] * 2
    except SourceUnavailable:
        pass  # which tells the pool that its server was lost
    assert [(await row_of(tables, number)).completed for number in (0, 1)] == [0, 0]
