"""What hand-written SQL can do to products, and what the database makes of it."""

from collections.abc import AsyncIterator
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.rows import TupleRow

from app.cache.history import timeline_of
from tests.conftest import SessionPostgres
from tests.harness.servers import create_database, drop_database, new_name

Connection = psycopg.AsyncConnection[TupleRow]

RECREATE: LiteralString = """
ALTER TABLE products RENAME TO old_products;
CREATE TABLE products (LIKE old_products INCLUDING ALL);
DROP TABLE old_products;
CREATE TRIGGER zz_larder_change BEFORE INSERT OR UPDATE OR DELETE ON products
    FOR EACH ROW EXECUTE FUNCTION larder_products_change();
CREATE TRIGGER zz_larder_truncate AFTER TRUNCATE ON products
    FOR EACH STATEMENT EXECUTE FUNCTION larder_products_truncate();
ALTER TABLE products ENABLE ALWAYS TRIGGER zz_larder_change;
ALTER TABLE products ENABLE ALWAYS TRIGGER zz_larder_truncate;
"""
MEDDLE: LiteralString = """
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.version := 1; RETURN NEW; END';
CREATE TRIGGER meddle BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION meddle();
"""
UPSERT: LiteralString = """
INSERT INTO products (id, name, price_cents) VALUES ('mug', 'Mug', 9) ON CONFLICT (id) DO UPDATE SET price_cents = 9
"""
AS_REPLICA: LiteralString = "SET session_replication_role = replica"
"""As restores and replication set it."""


@pytest.fixture
async def hand(database_url: str) -> AsyncIterator[Connection]:
    """A connection of somebody who writes SQL by hand; one product is there."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("INSERT INTO products (id, name, price_cents, stock) VALUES ('mug', 'Mug', 100, 7)")
        yield connection


async def one(hand: Connection, statement: LiteralString) -> Any:
    """The only row of a statement; a single column as it is."""
    cursor = await hand.execute(statement)
    found = await cursor.fetchall()
    assert len(found) == 1
    return found[0] if len(found[0]) > 1 else found[0][0]


async def epoch(hand: Connection) -> str:
    """The present epoch."""
    found: str = await one(hand, "SELECT larder_epoch('products', 3)")
    return found


async def test_insert(hand: Connection) -> None:
    """A new row begins at version 1 and bears its transaction's id, whatever the statement says of either."""
    await hand.execute(
        "INSERT INTO products (id, name, price_cents, version, changed_xid) VALUES ('jug', 'Jug', 1, -5, '3'::xid8)"
    )
    version, old = await one(hand, "SELECT version, changed_xid = '3'::xid8 FROM products WHERE id = 'jug'")
    assert (version, old) == (1, False)


async def test_update(hand: Connection) -> None:
    """Every update raises version and transaction id, and moves the time."""
    before = await one(hand, "SELECT version, changed_xid, updated_at FROM products")
    await hand.execute("UPDATE products SET price_cents = 5")
    after = await one(hand, "SELECT version, changed_xid, updated_at FROM products")
    assert after[0] == before[0] + 1
    assert int(after[1]) > int(before[1])
    assert after[2] > before[2]


@pytest.mark.guarantee("G4", "R8")
@pytest.mark.parametrize(
    ("statements", "row"),
    [
        # A version cannot be taken back, may be raised, and a transaction id cannot be forged.
        (["UPDATE products SET version = 0, changed_xid = '3'::xid8"], (2, 100, 7, False)),
        (["UPDATE products SET version = 50"], (50, 100, 7, False)),
        # Each update of one transaction counts: the same version never names two states.
        (["UPDATE products SET price_cents = 1; UPDATE products SET price_cents = 2"], (3, 2, 7, False)),
        ([UPSERT], (2, 9, 7, False)),
        # A deletion leaves a tombstone with the next version and no stock; deleting that again changes nothing.
        (["DELETE FROM products WHERE id = 'mug'"], (2, 100, 0, True)),
        (["DELETE FROM products", "DELETE FROM products"], (2, 100, 0, True)),
        # The id's next life goes on from the tombstone's version.
        (["DELETE FROM products", "UPDATE products SET deleted_at = NULL, version = 1 WHERE id = 'mug'"], (3, 100, 0, False)),
        # The trigger is the last one by name: what another one sets is counted, and cannot undo the version.
        ([MEDDLE, "UPDATE products SET price_cents = 5"], (2, 5, 7, False)),
        ([AS_REPLICA, "UPDATE products SET price_cents = 5, version = 1"], (2, 5, 7, False)),
        ([AS_REPLICA, "DELETE FROM products"], (2, 100, 0, True)),
    ],
)
async def test_versions_rise(hand: Connection, statements: list[LiteralString], row: tuple[object, ...]) -> None:
    """Whatever a statement changes or sets, the row gets the next version at least, and its transaction's own id."""
    for statement in statements:
        await hand.execute(statement)
    found = await one(hand, "SELECT version, price_cents, stock, deleted_at IS NOT NULL, changed_xid = '3'::xid8 FROM products")
    assert found == (*row, False)


async def test_change_of_id(hand: Connection) -> None:
    """An id never changes: the entry under the old one would outlive its row."""
    with pytest.raises(psycopg.errors.CheckViolation, match="mug to cup"):
        await hand.execute("UPDATE products SET id = 'cup'")
    assert await one(hand, "SELECT id, version FROM products") == ("mug", 1)


@pytest.mark.guarantee("G2")
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO products (id, name, price_cents) VALUES ('jug', 'Jug', 1)",
        "UPDATE products SET price_cents = 5",
        "DELETE FROM products",
        "TRUNCATE products",
    ],
)
async def test_synchronous_commit_is_turned_on(hand: Connection, statement: LiteralString) -> None:
    """A commit that could be seen and then lost in a crash would leave the cache with a state that never was."""
    await hand.execute("SET synchronous_commit = off")
    async with hand.transaction():
        assert await one(hand, "SHOW synchronous_commit") == "off"
        await hand.execute(statement)
        assert await one(hand, "SHOW synchronous_commit") == "on"
    assert await one(hand, "SHOW synchronous_commit") == "off"


async def test_stronger_synchronous_commit_is_kept(hand: Connection) -> None:
    """Only `off` is too weak; who asks for more gets more."""
    await hand.execute("SET synchronous_commit = remote_write")
    async with hand.transaction():
        await hand.execute("UPDATE products SET price_cents = 5")
        assert await one(hand, "SHOW synchronous_commit") == "remote_write"


async def test_epoch_stays(hand: Connection) -> None:
    """Nothing that leaves versions rising changes the epoch: writes, deletes, vacuum, a rolled back truncation."""
    before = await epoch(hand)
    assert timeline_of(before) is not None
    await hand.execute("UPDATE products SET price_cents = 5")
    await hand.execute("DELETE FROM products")
    await hand.execute("VACUUM FULL products")
    await hand.execute("REINDEX TABLE products")
    async with hand.transaction(force_rollback=True):
        await hand.execute("TRUNCATE products")
        assert await epoch(hand) != before
    assert await epoch(hand) == before


@pytest.mark.guarantee("R6")
async def test_truncate_changes_the_epoch(hand: Connection) -> None:
    """`TRUNCATE` fires no trigger for its rows, so what was cached of them must not look current: the epoch is another one."""
    before = await epoch(hand)
    await hand.execute("TRUNCATE products")
    after = await epoch(hand)
    assert after != before
    assert await one(hand, "SELECT id, version, stock, deleted_at IS NOT NULL FROM products") == ("mug", 2, 0, True)
    await hand.execute("UPDATE products SET deleted_at = NULL")
    assert await epoch(hand) == after


@pytest.mark.parametrize(
    "statements",
    [
        # A table that was dropped and made again, as a restore does.
        [RECREATE],
        # Nobody knows what was written while a trigger was away.
        [
            "ALTER TABLE products DISABLE TRIGGER zz_larder_change",
            "UPDATE products SET price_cents = 5",
            "ALTER TABLE products ENABLE ALWAYS TRIGGER zz_larder_change",
        ],
        [AS_REPLICA, "TRUNCATE products"],
    ],
    ids=["recreated", "triggers away", "truncated as a replica"],
)
async def test_another_history_has_another_epoch(hand: Connection, statements: list[LiteralString]) -> None:
    """What was cached before must not look current."""
    before = await epoch(hand)
    for statement in statements:
        await hand.execute(statement)
    assert await epoch(hand) != before


async def test_versions_rise_over_a_truncation(hand: Connection) -> None:
    """Also those that rose without a movement of stock, which the ledger does not know: an ETag never comes back."""
    await hand.execute("INSERT INTO products (id, name, price_cents) VALUES ('cup', 'Cup', 1)")
    await hand.execute("UPDATE products SET version = 40 WHERE id = 'cup'")
    for expected in (41, 42):
        await hand.execute("TRUNCATE products")
        found = await (await hand.execute("SELECT id, version FROM products ORDER BY id")).fetchall()
        assert found == [("cup", expected), ("mug", expected)]
    await hand.execute(
        "INSERT INTO products (id, name, price_cents) VALUES ('cup', 'Cup', 2) ON CONFLICT (id) DO UPDATE SET deleted_at = NULL"
    )
    assert await one(hand, "SELECT version FROM products WHERE id = 'cup'") == 43


@pytest.mark.guarantee("R6")
@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE products DISABLE TRIGGER zz_larder_change",
        "ALTER TABLE products DISABLE TRIGGER zz_larder_truncate",
        "ALTER TABLE products ENABLE TRIGGER zz_larder_change",
        "DROP TRIGGER zz_larder_change ON products",
    ],
)
async def test_no_epoch_without_triggers(hand: Connection, statement: LiteralString) -> None:
    """While a trigger is missing or weakened, rows change unseen: there is no epoch, so nothing is cached or believed."""
    await hand.execute(statement)
    with pytest.raises(psycopg.errors.UndefinedTable, match="triggers"):
        await epoch(hand)


async def test_databases_have_different_epochs(hand: Connection, postgres: SessionPostgres, migrated_template: str) -> None:
    """A clone of a database is a history of its own from the first statement on."""
    name = new_name()
    url = await create_database(postgres.url, name, template=migrated_template)
    try:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as clone:
            assert await epoch(clone) != await epoch(hand)
    finally:
        await drop_database(postgres.url, name)
