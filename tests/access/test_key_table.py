"""Keys in PostgreSQL, and the whole service with keys on real servers."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from app.access.key_ring import KeyRing
from app.access.key_table import KeyTable, create_key, list_keys, revoke_keys, rotate_key
from app.access.keys import Scope, id_of, make_key
from app.access.rates import Limits
from app.cache.errors import SourceDeposed
from app.cli.keys import REVOKE_WAIT_S
from app.postgres.database import Database
from app.postgres.errors import DatabaseError
from app.products.payload import SCHEMA
from tests.api.real import service
from tests.limits import open_database

SCOPES = frozenset({Scope.PRODUCTS_READ, Scope.STOCK_ADJUST})


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = open_database(database_url)
    yield database
    await database.close()


@pytest.fixture
def table(database: Database) -> KeyTable:
    return KeyTable(database, SCHEMA, lambda _epoch, _asked_at: None, time.monotonic)


async def made(database: Database, client: str = "till", **more: Any) -> tuple[str, str]:
    """Store a new key; return it and its id."""
    key, digest = make_key()
    await create_key(database, id_of(key), digest, client, SCOPES, **more)
    return key, id_of(key)


async def test_key_is_read_as_it_was_made(database: Database, database_url: str, table: KeyTable) -> None:
    """Everything but the key itself comes back, and an expiry as the time that is left."""
    key, key_id = await made(database, rate_per_s=200.0, expires_in_s=60.0)
    found = await table.valid_keys("")
    assert found.keys is not None
    [stored] = found.keys
    assert (stored.id, stored.client, stored.scopes, stored.rate_per_s) == (key_id, "till", SCOPES, 200.0)
    assert 50 < stored.expires_in_s <= 60
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        rows = await (await connection.execute("SELECT access_keys::text FROM access_keys")).fetchall()
    assert key.split("_")[2] not in str(rows)


async def test_generation_changes_with_what_keys_allow_and_not_with_their_use(
    database: Database, database_url: str, table: KeyTable
) -> None:
    """A process that knows the generation reads no keys. Every way to change a key makes a new one, by hand, too."""
    _, key_id = await made(database)
    known = (await table.valid_keys("")).generation
    assert (await table.valid_keys(known)).keys is None
    await table.record_use([key_id])
    assert (await table.valid_keys(known)).keys is None
    changes = (
        "UPDATE access_keys SET scopes = '{stock:adjust}'",
        "UPDATE access_keys SET expires_at = clock_timestamp() + interval '1 day'",
        "DELETE FROM access_keys",
        "TRUNCATE access_keys",
    )
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        for change in changes:
            await connection.execute(change)
            found = await table.valid_keys(known)
            assert found.keys is not None, change
            known = found.generation


async def test_revoked_and_expired_keys_are_not_valid(database: Database, table: KeyTable) -> None:
    """They stay in the list, with the reason, and unknown ids are told apart."""
    _, revoked = await made(database)
    _, expired = await made(database, expires_in_s=0.0)
    assert await revoke_keys(database, [revoked, "unknown"]) == {revoked}
    assert (await table.valid_keys("")).keys == []
    listed = {key.id: key for key in await list_keys(database)}
    assert listed[revoked].revoked_at is not None
    assert listed[expired].expired
    first = listed[revoked].revoked_at
    await revoke_keys(database, [revoked])
    assert {key.id: key for key in await list_keys(database)}[revoked].revoked_at == first


async def test_rotated_key_has_everything_of_the_old_one(database: Database, table: KeyTable) -> None:
    """Both are valid during the overlap; an invalid key cannot be rotated."""
    _, old = await made(database, rate_per_s=5.0)
    key, digest = make_key()
    assert await rotate_key(database, old, id_of(key), digest, overlap_s=60.0) == ("till", None)
    found = {key.id: key for key in (await table.valid_keys("")).keys or ()}
    assert found.keys() == {old, id_of(key)}
    assert found[old].expires_in_s <= 60.0 < found[id_of(key)].expires_in_s
    assert (found[id_of(key)].scopes, found[id_of(key)].rate_per_s) == (SCOPES, 5.0)
    await revoke_keys(database, [old])
    assert await rotate_key(database, old, "zzzzzzzz", b"0" * 32, overlap_s=60.0) is None


@pytest.mark.parametrize(("given_s", "life_s"), [(None, 7_776_000.0), (3_600.0, 3_600.0)])
async def test_rotated_key_lives_as_long_as_the_old_one(
    database: Database, table: KeyTable, given_s: float | None, life_s: float
) -> None:
    """A key that was made for 90 days is followed by one for 90 days, unless another life is given."""
    _, old = await made(database, expires_in_s=7_776_000.0)
    key, digest = make_key()
    assert await rotate_key(database, old, id_of(key), digest, overlap_s=60.0, expires_in_s=given_s) is not None
    found = {key.id: key for key in (await table.valid_keys("")).keys or ()}
    assert found[id_of(key)].expires_in_s == pytest.approx(life_s, abs=30)


async def test_use_is_recorded_by_the_day(database: Database, table: KeyTable) -> None:
    """The list shows the day of the last use, not more."""
    _, key_id = await made(database)
    assert [key.last_used_on for key in await list_keys(database)] == [None]
    await table.record_use([key_id])
    [listed] = await list_keys(database)
    assert listed.last_used_on is not None


async def test_old_primary_is_not_believed(database: Database) -> None:
    """Keys of a server that another one has replaced may lack a revocation, so they do not count."""

    def refuse(_epoch: str, _asked_at: float) -> None:
        raise SourceDeposed("an old primary")

    key, _ = await made(database)
    ring = KeyRing([KeyTable(database, SCHEMA, refuse, time.monotonic)], limits=Limits())
    assert not await ring.renew()
    assert ring.recognised(f"Bearer {key}".encode(), 0.0) is None


@pytest.mark.parametrize(
    "change",
    [{"client": "a b"}, {"client": ""}, {"scopes": set()}, {"digest": b"short"}, {"rate_per_s": 0.0}],
    ids=lambda change: next(iter(change)),
)
async def test_database_refuses_what_is_no_key(database: Database, change: dict[str, Any]) -> None:
    """Rows that a hand-written statement might add are refused as well."""
    whole = {"key_id": "abcdefgh", "digest": b"0" * 32, "client": "till", "scopes": SCOPES} | change
    with pytest.raises(DatabaseError):
        await create_key(database, **whole)


async def test_ledger_names_the_client(database: Database, database_url: str, redis_url: str, namespace: str) -> None:
    """The client of the key that changed a stock stands in the ledger, and stays there when the key is gone."""
    key, digest = make_key()
    await create_key(database, id_of(key), digest, "till", set(Scope))
    async with service(database_url, redis_url, namespace, ACCESS="keys") as client:
        client.headers["Authorization"] = f"Bearer {key}"
        body = {"id": "a", "name": "A", "price_cents": 1, "stock": 5}
        assert (await client.post("/products", json=body)).status_code == 201
        await revoke_keys(database, [id_of(key)])
        async with asyncio.timeout(REVOKE_WAIT_S):
            while (await client.get("/products/a")).status_code == 200:
                await asyncio.sleep(0.02)
        assert (await client.get("/products/a")).status_code == 401
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        rows = await (await connection.execute("SELECT product_id, actor FROM stock_movements")).fetchall()
    assert rows == [("a", "till")]
