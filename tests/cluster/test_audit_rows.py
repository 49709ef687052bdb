"""The audit rows of partitions in PostgreSQL: siblings are no rivals, and each knows only its own fences (T4, R4, R5)."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import LiteralString

import psycopg
import pytest
from psycopg.rows import TupleRow

from app.cache.partitions import Partitions
from app.cache.ports import Announced, Deferred, FenceLimits
from app.cache.postgres.namespaces import bar, list_namespaces
from app.cache.postgres.partition_audit import PartitionAuditSources, PartitionsAudit
from app.cache.postgres.table_audit import TableAuditSources
from app.cache.postgres.table_source import TableSource
from app.products.source import PRODUCTS
from tests.harness.script import PATIENCE_S
from tests.limits import open_database

LIMITS = FenceLimits(ttl_ms=60_000, ttl_max_ms=60_000, margin_ms=50)


@asynccontextmanager
async def auditing(url: str, partitions: Partitions) -> AsyncIterator[PartitionsAudit]:
    """Open the source of one cycle."""
    database = open_database(url)
    try:
        async with PartitionAuditSources(database, PRODUCTS, partitions.rows).open() as source:
            yield source
    finally:
        await database.close()


async def announced(source: PartitionsAudit, servers: Mapping[int, str]) -> Mapping[int, Announced]:
    """Announce cycles, none of which may be refused."""
    answers = await source.announce(servers, LIMITS)
    assert all(isinstance(answer, Announced) for answer in answers.values()), answers
    return {partition: answer for partition, answer in answers.items() if isinstance(answer, Announced)}


async def by_hand(url: str, text: LiteralString) -> None:
    """Run SQL by hand."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as hand:
        await hand.execute(text)


@pytest.mark.guarantee("R5")
async def test_siblings_are_no_rivals(database_url: str, namespace: str) -> None:
    """Partitions are announced one after another, on several servers, and their snapshot finds no rival."""
    partitions = Partitions(namespace, 4)
    async with auditing(database_url, partitions) as source:
        await announced(source, {0: "red", 1: "red"})
        cycles = await announced(source, {2: "blue", 1: "red"})
        async with source.snapshot(None, LIMITS, 10) as snapshot:
            assert snapshot.rival == ""
        await source.complete({1: cycles[1].cycle})
        answers = await source.announce({0: "blue", 2: "blue"}, LIMITS)
    assert (type(answers[0]), type(answers[2])) == (Deferred, Announced)
    database = open_database(database_url)
    rows = (await TableSource(database.loads, PRODUCTS, *partitions.rows).standing()).rows
    await database.close()
    shown = {name: (row.announced, row.completed) for name, row in rows.items() if name in partitions.rows}
    assert shown == {partitions.rows[0]: (1, 0), partitions.rows[1]: (2, 2), partitions.rows[2]: (2, 0)}


@pytest.mark.guarantee("R5")
@pytest.mark.parametrize("other", ["undivided", "other number"])
async def test_another_namespace_is_a_rival_of_every_partition(database_url: str, namespace: str, other: str) -> None:
    """While one partition of another number may be trusted, or the namespace undivided, none is announced, and the reverse."""
    partitions = Partitions(namespace, 4)
    database = open_database(database_url)
    first = namespace if other == "undivided" else Partitions(namespace, 8).rows[7]
    async with TableAuditSources(database, PRODUCTS, first).open() as incumbent:
        assert isinstance(await incumbent.announce("red", LIMITS), Announced)
    async with auditing(database_url, partitions) as source:
        answers = await source.announce({0: "red", 3: "red"}, LIMITS)
        assert all(isinstance(answer, Deferred) and first in answer.reason for answer in answers.values())
        async with source.snapshot(None, LIMITS, 10) as snapshot:
            assert snapshot.rival == first
        await by_hand(database_url, "UPDATE cache_audits SET fenced_until = '-infinity'")
        await announced(source, {3: "red"})
    async with TableAuditSources(database, PRODUCTS, first).open() as incumbent:
        assert isinstance(await incumbent.announce("red", LIMITS), Deferred)
        async with incumbent.snapshot(None, LIMITS, 10) as seen:
            assert seen.rival == partitions.rows[3]
    await database.close()


@pytest.mark.guarantee("R5")
async def test_first_audit_of_a_partition_in_an_epoch(database_url: str, namespace: str) -> None:
    """Each partition waits for its own fences of an earlier epoch, though a sibling has the present one already."""
    partitions = Partitions(namespace, 4)
    await by_hand(database_url, "DELETE FROM cache_audits")
    async with auditing(database_url, partitions) as source:
        first = await announced(source, {0: "red"})
        await by_hand(database_url, "UPDATE cache_audits SET fenced_until = '-infinity', other_until = '-infinity'")
        second = await announced(source, {0: "red", 1: "red"})
    assert first[0].other_remaining_s > 50
    assert second[0].other_remaining_s < 0
    assert second[1].other_remaining_s > 50


@pytest.mark.guarantee("R4")
async def test_adoption_by_partitions(database_url: str, namespace: str) -> None:
    """Only partitions that have no audit in this epoch are adopted, and none if another namespace had one."""
    partitions = Partitions(namespace, 4)
    database = open_database(database_url)
    source = TableSource(database.loads, PRODUCTS, *partitions.rows)
    assert set((await source.adopt(60_000)).rows) == {namespace}
    await by_hand(database_url, "DELETE FROM cache_audits")
    async with auditing(database_url, partitions) as audit:
        await announced(audit, {2: "red"})
    rows = (await source.adopt(60_000)).rows
    await database.close()
    assert set(rows) == set(partitions.rows)
    assert {rows[name].announced for name in partitions.rows} == {1}
    assert all(row.remaining_s > 50 for row in rows.values())


@pytest.mark.guarantee("R5")
@pytest.mark.parametrize("step", ["announce", "complete"])
async def test_two_auditors_of_the_same_partitions(database_url: str, namespace: str, step: str) -> None:
    """Both lock the rows in the same order, however they name them. Otherwise each would wait for a row of the other one."""
    partitions = Partitions(namespace, 4)
    async with (
        auditing(database_url, partitions) as one,
        auditing(database_url, partitions) as two,
        await psycopg.AsyncConnection.connect(database_url) as hand,
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as watch,
    ):
        cycles: Mapping[int, Announced] = {}
        for source in (one, two):
            cycles = await announced(source, dict.fromkeys(range(4), "red"))
            async with source.snapshot(None, LIMITS, 10):
                pass
        await hand.execute("SELECT FROM cache_audits WHERE namespace = %s FOR UPDATE", [partitions.rows[1]])
        steps: list[asyncio.Task[object]] = []
        for source, order in ((one, range(4)), (two, range(3, -1, -1))):
            if step == "announce":
                steps.append(asyncio.create_task(source.announce(dict.fromkeys(order, "red"), LIMITS)))
            else:
                steps.append(asyncio.create_task(source.complete({p: cycles[p].cycle for p in order})))
            await _until_waiting(watch, len(steps))
        await hand.rollback()
        await asyncio.gather(*steps)


async def _until_waiting(watch: psycopg.AsyncConnection[TupleRow], number: int) -> None:
    """Wait until so many sessions of this database wait for a lock."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await watch.execute(
                "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            if len(await found.fetchall()) >= number:
                return


async def test_barred_partitions(database_url: str, namespace: str) -> None:
    """A namespace is listed and barred by its name with the number, which stands for all its partitions."""
    partitions = Partitions(namespace, 4)
    database = open_database(database_url)
    async with auditing(database_url, partitions) as source:
        await announced(source, {0: "red", 1: "blue"})
        await bar(database, PRODUCTS, partitions.name, barred=True)
        answers = await source.announce({0: "red", 3: "red"}, LIMITS)
        assert all(isinstance(answer, Deferred) and "barred" in answer.reason for answer in answers.values())
        [listed] = [one for one in await list_namespaces(database, PRODUCTS) if one.name == partitions.name]
        assert (listed.announced, listed.barred, listed.trusted_s > 50) == (2, True, True)
        await bar(database, PRODUCTS, partitions.name, barred=False)
        await announced(source, {0: "red"})
    await database.close()


async def test_cost_of_announcing_64_partitions(database_url: str, namespace: str) -> None:
    """All partitions are announced by one statement."""
    partitions = Partitions(namespace, 64)
    async with auditing(database_url, partitions) as source:
        await announced(source, dict.fromkeys(range(64), "red"))
        before = source._session.statements
        cycles = await announced(source, dict.fromkeys(range(64), "red"))
        assert source._session.statements == before + 1
        await source.complete({partition: one.cycle for partition, one in cycles.items()})
    assert {one.cycle for one in cycles.values()} == {2}
