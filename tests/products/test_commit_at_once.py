"""Transactions whose changes and COMMIT share a round trip: the database refuses what their process would have refused."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, LiteralString

import psycopg
import pytest

from app.cache.errors import SourceDeposed
from app.cache.history import History, timeline_of
from app.postgres.database import Database, Session
from app.postgres.errors import CommitUnknown, DatabaseFailed, DatabaseUnsuitable, DataRefused, TransactionConflict
from app.products.commands import Command, Create, Upsert, set_stock
from app.products.decision import Denied, Done
from app.products.errors import AlreadyExists
from app.products.idempotency import WriteRequest
from app.products.product import Draft
from app.products.transaction import Committed, Patience
from app.products.transactions import ProductTransactions
from app.settings import Settings
from tests.harness.servers import execute
from tests.products.instances import by_hand, deviations

AT_ONCE = ["pipeline", "commit"]
STEP_BY_STEP = ["pipeline", "pipeline", "commit"]
NO_GUARD = """
CREATE OR REPLACE FUNCTION larder_require(holds boolean, otherwise text) RETURNS boolean LANGUAGE sql AS 'SELECT true'
"""
Act = Callable[[], Awaitable[object]]


@dataclass
class Shop:
    """The write path of a process. ``meanwhile`` is done once, after the first round trip of the next transaction."""

    database: Database
    history: History = field(default_factory=History)
    trips: list[str] = field(default_factory=list)
    meanwhile: Act | None = None

    @property
    def lists(self) -> Any:
        return self.database.lists

    @property
    def writes(self) -> "Shop":
        return self

    async def run(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Run a transaction, as ``Pool.run`` does."""
        return await self.database.writes.run(lambda session: work(Observed(session, self)))

    async def commit(self, *commands: Command, attempts: int = 4, patience: Patience | None = None) -> Committed:
        """Commit commands without idempotency keys in one transaction."""
        self.trips.clear()
        database: Any = self
        transactions = ProductTransactions(database, attempts=attempts, history=self.history)
        return await transactions.commit([WriteRequest(command) for command in commands], patience)


@dataclass
class Observed:
    """A session whose round trips are listed."""

    session: Session
    shop: Shop

    async def _pass(self, name: str) -> None:
        self.shop.trips.append(name)
        act = self.shop.meanwhile
        if act is not None and len(self.shop.trips) > 1:
            self.shop.meanwhile = None
            await act()

    async def rows(self, *statement: Any) -> Any:
        await self._pass("rows")
        return await self.session.rows(*statement)

    async def pipeline(self, *statements: Any) -> Any:
        await self._pass("pipeline")
        return await self.session.pipeline(*statements)

    async def commit(self, *last: Any) -> Any:
        await self._pass("commit")
        return await self.session.commit(*last)


@pytest.fixture
async def shop(database: Database) -> Shop:
    """A process that has written before: it knows the epoch. There is a product, "a"."""
    shop = Shop(database)
    await shop.commit(Create(draft("a", 10)))
    assert shop.trips == STEP_BY_STEP, "no epoch was known"
    return shop


def draft(product_id: str, stock: int = 0) -> Draft:
    return Draft(product_id, "Mug", 100, stock)


def versions(committed: Committed) -> Sequence[int | None]:
    """The version that each request gave to its first product; ``None`` for one that was refused."""
    return [d.effects[0].row.version if isinstance(d, Done) else None for d in committed.decisions]


async def stored(settings: Settings) -> list[Any]:
    return await execute(settings.database_url, "SELECT id, version, stock FROM products ORDER BY id")


@pytest.mark.parametrize("patience", [None, Patience(1_000, ["a"])])
async def test_two_round_trips(shop: Shop, settings: Settings, patience: Patience | None) -> None:
    """What the database returned with COMMIT is told and published, as what it returned before."""
    committed = await shop.commit(set_stock("a", 7), Create(draft("b", 3)), Create(draft("a")), patience=patience)
    assert shop.trips == AT_ONCE
    assert versions(committed) == [2, 1, None]
    assert [(state.key, state.version, state.epoch) for state in committed.states] == [
        ("a", 2, shop.history.epoch),
        ("b", 1, shop.history.epoch),
    ]
    [(recorded_at,)] = await execute(settings.database_url, "SELECT DISTINCT created_at FROM stock_movements WHERE version = 2")
    first = committed.decisions[0]
    assert isinstance(first, Done)
    assert first.effects[0].recorded_at == recorded_at
    assert await stored(settings) == [("a", 2, 7), ("b", 1, 3)]
    assert await deviations(settings) == []


async def test_one_attempt_looks_for_itself(shop: Shop) -> None:
    """Nothing would follow a refusal that another epoch may be the reason for."""
    await shop.commit(set_stock("a", 7), attempts=1)
    assert shop.trips == STEP_BY_STEP


@pytest.mark.guarantee("G2")
async def test_an_epoch_begins_after_the_locks(shop: Shop, settings: Settings) -> None:
    """The database refuses the commit, and the next attempt is decided by what the process makes of the new epoch."""
    before = shop.history.epoch
    shop.meanwhile = lambda: execute(settings.database_url, "UPDATE cache_generations SET generation = gen_random_uuid()")
    committed = await shop.commit(set_stock("a", 7))
    assert [name for name in shop.trips if name != "rows"] == [*AT_ONCE, *STEP_BY_STEP]
    [state] = committed.states
    assert (state.version, state.epoch) == (2, shop.history.epoch)
    assert state.epoch != before
    assert await deviations(settings) == []
    await shop.commit(set_stock("a", 8))
    assert shop.trips == AT_ONCE


@pytest.mark.guarantee("G2")
@pytest.mark.parametrize("guarded", [True, False])
async def test_a_connection_that_still_leads_to_the_old_primary(shop: Shop, settings: Settings, *, guarded: bool) -> None:
    """The process has met the new primary elsewhere: it commits nothing on the old one, from which nobody reads any more."""
    if not guarded:
        await execute(settings.database_url, NO_GUARD)
    own = timeline_of(shop.history.epoch)
    assert own is not None
    newer = f"{own.system}.{own.number + 1:08X}.{'0' * 16}"
    shop.history.record(newer, asyncio.get_running_loop().time())
    if guarded:
        with pytest.raises(SourceDeposed):
            await shop.commit(set_stock("a", 7))
        assert await stored(settings) == [("a", 1, 10)]
        assert shop.history.deposed
        with pytest.raises(SourceDeposed):
            await shop.commit(set_stock("a", 7))
        assert shop.trips[:2] == ["pipeline", "pipeline"], "a process that knows that its source was deposed sends no COMMIT"
    else:
        await shop.commit(set_stock("a", 7))
        assert await stored(settings) == [("a", 2, 7)]


@pytest.mark.parametrize(
    ("creation", "outcome", "row"),
    [
        ("INSERT INTO products (id, name, price_cents) VALUES ('b', 'Cup', 1)", AlreadyExists, ("b", 1, 0)),
        ("INSERT INTO products (id, name, price_cents, deleted_at) VALUES ('b', 'Cup', 1, now())", Done, ("b", 2, 3)),
    ],
    ids=["product", "tombstone without a ledger"],
)
async def test_somebody_else_creates_the_product_first(
    shop: Shop, settings: Settings, creation: LiteralString, outcome: type, row: tuple[object, ...]
) -> None:
    """There was no row to lock. The second attempt is decided on what is there now, and nobody's change is lost."""
    shop.meanwhile = lambda: execute(settings.database_url, creation)
    committed = await shop.commit(Create(draft("b", 3)), set_stock("a", 7))
    assert [name for name in shop.trips if name != "rows"] == [*AT_ONCE, *STEP_BY_STEP]
    [decision, _] = committed.decisions
    assert isinstance(decision.refusal if isinstance(decision, Denied) else decision, outcome)
    assert await stored(settings) == [("a", 2, 7), row]
    assert await deviations(settings) == []


async def test_the_ledger_is_ahead_of_its_product(shop: Shop, settings: Settings) -> None:
    """As after a restore of the products alone: nothing is committed at the old version."""
    async with by_hand(settings) as hand:
        await hand.execute("INSERT INTO stock_movements VALUES ('a', 2, 0, -1, 9, 'sale')")
    committed = await shop.commit(set_stock("a", 7))
    assert [name for name in shop.trips if name != "rows"] == [*AT_ONCE, *STEP_BY_STEP]
    assert versions(committed) == [3]
    assert await deviations(settings) == []


@pytest.mark.guarantee("G2")
async def test_a_finish_locks_this_release_out_after_the_locks(shop: Shop, settings: Settings) -> None:
    """The read-back fails for a release that does not know the payload, and with it the commit behind it."""
    shop.meanwhile = lambda: execute(settings.database_url, "UPDATE cache_generations SET payload_schema = 99")
    with pytest.raises(DatabaseUnsuitable, match="too old"):
        await shop.commit(set_stock("a", 7))
    assert shop.trips == AT_ONCE
    assert await stored(settings) == [("a", 1, 10)]


REFUSALS: dict[str, LiteralString] = {
    "by the statement": "CREATE TRIGGER refuse BEFORE UPDATE ON products",
    "at COMMIT": "CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON products DEFERRABLE INITIALLY DEFERRED",
}


@pytest.mark.guarantee("G2")
@pytest.mark.parametrize(("state", "error"), [("check_violation", DataRefused), ("raise_exception", DatabaseFailed)])
@pytest.mark.parametrize("when", REFUSALS)
async def test_a_refusal_that_the_server_reported_is_definite(
    shop: Shop, settings: Settings, when: str, state: LiteralString, error: type[Exception]
) -> None:
    """Nothing was changed, whichever statement of the round trip was refused, and the connection is used again."""
    function: LiteralString = f"BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END"
    await execute(settings.database_url, f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {function} $$")
    await execute(settings.database_url, f"{REFUSALS[when]} FOR EACH ROW EXECUTE FUNCTION refuse()")
    [[pid]] = await shop.database.writes.rows("SELECT pg_backend_pid()")
    with pytest.raises(error) as failure:
        await shop.commit(set_stock("a", 7))
    assert type(failure.value) is error
    assert shop.trips == AT_ONCE
    assert await stored(settings) == [("a", 1, 10)]
    await execute(settings.database_url, "DROP TRIGGER refuse ON products")
    assert versions(await shop.commit(set_stock("a", 7))) == [2]
    assert await shop.database.writes.rows("SELECT pg_backend_pid()") == [(pid,)]


_KILL = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND locktype = 'advisory' AND objid = 4711"
_STOP_AT_COMMIT = """
CREATE FUNCTION stop_at_commit() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER stop_at_commit AFTER INSERT ON products
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION stop_at_commit();
"""


@pytest.mark.guarantee("G2")
async def test_a_server_process_that_dies_in_the_commit_after_it_has_answered_the_changes(
    shop: Shop, settings: Settings
) -> None:
    """The read-back had come, because it is longer than what the server keeps back: the outcome is unknown all the same."""
    drafts = [replace(draft(f"p{number}", 1), name="x" * 200) for number in range(100)]
    async with by_hand(settings) as connection:
        await connection.execute(_STOP_AT_COMMIT)
        await connection.execute("SELECT pg_advisory_lock(4711)")
        doomed = asyncio.create_task(shop.commit(Upsert(drafts)))
        async with asyncio.timeout(5):
            killed: list[Any] = []
            while not killed:
                killed = await (await connection.execute(_KILL)).fetchall()
        with pytest.raises(CommitUnknown):
            await doomed
        assert shop.trips == AT_ONCE, "an unknown outcome is not tried again"
        await connection.execute("SELECT pg_advisory_unlock(4711)")
    assert await stored(settings) == [("a", 1, 10)]
    assert versions(await shop.commit(Upsert(drafts))) == [1]


async def test_a_result_that_cannot_be_told_is_an_unknown_outcome(shop: Shop, settings: Settings) -> None:
    """Once it is committed, nothing may say that nothing was changed."""
    async with await psycopg.AsyncConnection.connect(settings.database_url, autocommit=True) as hand:
        # A trigger of somebody else's that makes a time which the driver cannot read.
        await hand.execute(
            "CREATE FUNCTION for_ever() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.created_at := 'infinity'; RETURN NEW; END $$;"
        )
        await hand.execute("CREATE TRIGGER for_ever BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION for_ever()")
    with pytest.raises(CommitUnknown):
        await shop.commit(set_stock("a", 7))
    assert await stored(settings) == [("a", 2, 7)]


async def test_a_lost_race_is_told_when_it_was_lost_too_often(shop: Shop, settings: Settings) -> None:
    """What cannot be recorded at any version is a conflict, as it was when the process counted the entries."""
    await execute(
        settings.database_url,
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER skip BEFORE INSERT ON stock_movements FOR EACH ROW EXECUTE FUNCTION skip()",
    )
    with pytest.raises(TransactionConflict, match="3 times"):
        await shop.commit(set_stock("a", 7), attempts=3)
    assert await stored(settings) == [("a", 1, 10)]
