"""What the named statements cost where there are 1,000,000 products."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import pytest

from app.cache.postgres import table_queries
from app.postgres.database import Session
from app.products import queries
from tests.harness.million import BUSY, HOT
from tests.harness.servers import execute
from tests.limits import open_database
from tests.products.plans import CASES, STATEMENTS, TABLES, Parameters, buffers, explain, scans

PER_PAGE = 50

AS_SERVED: Mapping[str, str] = {}
AS_POSTGRESQL_COMES = {"enable_seqscan": "on", "plan_cache_mode": "force_custom_plan"}
KEPT_WITHOUT_HELP = {"enable_seqscan": "on", "plan_cache_mode": "force_generic_plan"}

# The scans of this transaction: of a table from end to end, or of an index.
SCANS: LiteralString = """
SELECT c.relname, pg_stat_get_xact_numscans(c.oid)
FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
WHERE coalesce(i.indrelid, c.oid) = ANY(%(tables)s::regclass[]) AND c.relkind IN ('r', 'i')
"""


SMALL: Sequence[LiteralString] = (
    "INSERT INTO products (id, name, price_cents, stock) SELECT 'p' || n, 'Mug', 1, 9 FROM generate_series(1, 1000) n",
    """
    INSERT INTO reservations (id, expires_at, created_at, updated_at)
    SELECT lpad(to_hex(n), 32, '0'), now() + interval '1 day', now(), now() FROM generate_series(1, 2000) n
    """,
    """
    INSERT INTO reservation_lines (reservation_id, line, product_id, quantity, expires_at)
    SELECT lpad(to_hex(n), 32, '0'), 0, 'p' || (n % 1000 + 1), 1, now() + interval '1 day' FROM generate_series(1, 2000) n
    """,
    "ANALYZE products, reservations, reservation_lines",
)


@asynccontextmanager
async def session_of(url: str, settings: Mapping[str, str] = AS_SERVED) -> AsyncIterator[Session]:
    """A session as the service's pool makes them, and what is set otherwise."""
    database = open_database(url)
    try:
        async with database.lists.session() as session:
            for name, value in settings.items():
                await session.rows("SELECT set_config(%(name)s, %(value)s, false)", {"name": name, "value": value})
            yield session
    finally:
        await database.close()


def test_every_statement_has_a_case() -> None:
    """No statement can be added that the tests below do not look at."""
    assert STATEMENTS.keys() == CASES.keys()


async def wrong_plans(session: Session) -> dict[str, list[str]]:
    """The statements that read a growing table otherwise than by key, and how."""
    wrong: dict[str, list[str]] = {}
    for name, cases in CASES.items():
        for parameters in cases:
            if found := scans(await explain(session, STATEMENTS[name], parameters)):
                wrong.setdefault(name, []).extend(found)
    return wrong


@pytest.mark.parametrize("settings", [AS_SERVED, AS_POSTGRESQL_COMES, KEPT_WITHOUT_HELP], ids=["served", "custom", "generic"])
async def test_plans(million: str, settings: Mapping[str, str]) -> None:
    """Every statement reads by an index and a condition on it, few keys or thousands, and not only because it is told to."""
    async with session_of(million, settings) as session:
        assert await wrong_plans(session) == {}


async def test_plans_made_while_the_tables_were_empty(database_url: str) -> None:
    """They are kept while a catalogue is imported, so they read by index as well."""
    async with session_of(database_url) as session:
        assert await wrong_plans(session) == {}


async def test_plans_made_while_the_tables_were_small(database_url: str) -> None:
    """A thousand products and reservations, analysed: a join by merging would read an index from its beginning."""
    for statement in SMALL:
        await execute(database_url, statement)
    async with session_of(database_url) as session:
        assert await wrong_plans(session) == {}


async def scanned(session: Session, *statements: tuple[Any, Parameters | None]) -> Counter[str]:
    """Run statements, take them back, and tell which tables were read from end to end and which indices were used."""
    *_, rows = await session.pipeline(("BEGIN", None), *statements, (SCANS, {"tables": list(TABLES)}))
    await session.rows("ROLLBACK")
    return Counter(dict(rows))


async def test_indices(million: str) -> None:
    """Run for real, with their triggers: no growing table is read from end to end, and each of its indices is used."""
    used: Counter[str] = Counter()
    async with session_of(million) as session:
        for name, cases in CASES.items():
            for parameters in cases:
                fetch = (("FETCH 1000 FROM changes", None),) if name == "CHANGES" else ()
                counts = await scanned(session, (STATEMENTS[name], parameters), *fetch)
                assert {table: counts[table] for table in TABLES} == dict.fromkeys(TABLES, 0), (name, counts)
                used.update(counts)
    assert {index for index in used if index not in TABLES and not used[index]} == set(), "nothing needs these"
    assert len(used) > 2 * len(TABLES)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE products SET stock = stock + 1 WHERE id = 'p0000005'",
        "INSERT INTO products (id, name, price_cents, stock) VALUES ('p0000007', 'Back again', 1, 5)",
        "DELETE FROM products WHERE id = 'p0000001'",
    ],
)
async def test_triggers_of_statements_by_hand(million: str, statement: LiteralString) -> None:
    """What the database does beside them is by index, too: the tombstone that comes to life, the ledger that is completed."""
    async with session_of(million, AS_POSTGRESQL_COMES) as session:
        counts = await scanned(session, (statement, None))
    assert {table: counts[table] for table in TABLES} == dict.fromkeys(TABLES, 0)
    assert counts["pk_stock_movements"] > 0


FIRST = {"limit": PER_PAGE + 1, "prefix": "", "after_id": "", "after_key": ""}
NEWEST = {"limit": PER_PAGE + 1, "created_at": "infinity", "product_id": "", "version": 2**63 - 1, "line": 0}
LISTS: Mapping[str, tuple[LiteralString, Parameters, Mapping[str, int]]] = {
    # The statement, its parameters for the first page, and the columns of a page's last row that tell where the next begins.
    "id": (queries.LIST_BY_ID, FIRST, {"after_id": 0}),
    "name": (queries.LIST_BY_NAME, {**FIRST, "prefix": "blue"}, {"after_id": 0, "after_key": -1}),
    "below": (queries.LIST_BELOW_REORDER_POINT, FIRST, {"after_id": 0}),
    "below-thinned": (queries.LIST_BELOW_REORDER_POINT, {**FIRST, "prefix": "red"}, {"after_id": 0}),
    "product": (queries.MOVEMENTS, {**NEWEST, "product_id": HOT}, {"version": 1, "line": 2}),
    "reference": (
        queries.MOVEMENTS_BY_REFERENCE,
        {**NEWEST, "reference": BUSY},
        {"created_at": 7, "product_id": 0, "version": 1, "line": 2},
    ),
}


@pytest.mark.parametrize("name", LISTS)
async def test_pages(million: str, name: str) -> None:
    """Page 1,000 of a list, or its last one, reads no more than the first: at most a fifth more pages of tables and indices."""
    statement, first, columns = LISTS[name]
    async with session_of(million) as session:
        rows = await session.rows(statement, {**first, "limit": PER_PAGE * 1_000 + 1})
        before = (len(rows) - 1) // PER_PAGE - 1
        last = rows[PER_PAGE * before - 1]
        later = {**first, **{parameter: last[column] for parameter, column in columns.items()}}
        page = await session.rows(statement, later)
        assert page == rows[PER_PAGE * before :][: PER_PAGE + 1]
        assert before >= 98
        costs = [buffers(await explain(session, statement, parameters, run=True)) for parameters in (first, later)]
    assert PER_PAGE < costs[0] < 3 * PER_PAGE
    assert costs[1] <= 1.2 * costs[0]


async def test_audit_without_changes(million: str) -> None:
    """An audit that finds nothing new touches the end of one index; it is looked for twice a second."""
    async with session_of(million) as session:
        [[snapshot, *_]] = await session.rows(table_queries.SNAPSHOT, CASES["SNAPSHOT"][0])
        plan = await explain(session, STATEMENTS["CHANGES"], {"xid": snapshot.partition(":")[0]}, run=True)
    assert plan["Actual Rows"] == 0
    assert buffers(plan) <= 5


async def test_audit_of_changes(million: str) -> None:
    """Otherwise it reads as much as has changed, and never more than the table once, however far the watermark is held back."""
    async with session_of(million) as session:
        [[pages]] = await session.rows("SELECT relpages FROM pg_class WHERE oid = 'products'::regclass")
        for back in (10, 100, 2_000, 20_000):
            [[xid]] = await session.rows(
                "SELECT (max(changed_xid)::text::bigint + 1 - %(back)s)::text FROM products", {"back": back}
            )
            plan = await explain(session, STATEMENTS["CHANGES"], {"xid": xid}, run=True)
            assert scans(plan) == []
            assert buffers(plan) <= min(2 * plan["Actual Rows"], 1.2 * pages)


async def test_a_page_of_the_feed(million: str) -> None:
    """Its events cost what their number does, wherever they are in a window of thousands of changes."""
    window = {**CASES["FEED_KEYS"][0], "limit": 10_000}
    async with session_of(million) as session:
        found = [tuple(key) for _, _, _, _, *key in await session.rows(STATEMENTS["FEED_KEYS"], window)]
        assert len(found) == 10_000
        for size in (10, 100):
            for keys in (found[:size], found[5_000 : 5_000 + size], found[-size:]):
                ids, versions, lines = (list(column) for column in zip(*keys, strict=True))
                given = {**window, "ids": ids, "versions": versions, "lines": lines}
                plan = await explain(session, STATEMENTS["FEED_EVENTS"], given, run=True)
                assert plan["Actual Rows"] == size
                assert buffers(plan) <= 12 * size + 50


async def test_a_step_of_the_feed(million: str) -> None:
    """How far one goes costs what the step holds, and not what has changed since."""
    async with session_of(million) as session:
        costs: list[int] = []
        for limit in (10, 1_000):
            plan = await explain(session, STATEMENTS["FEED_STEP"], {**CASES["FEED_STEP"][0], "limit": limit}, run=True)
            costs.append(buffers(plan))
    assert costs[0] < 100
    assert costs[1] < 3_000
