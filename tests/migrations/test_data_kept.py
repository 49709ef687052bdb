"""Migrations with data in the database: up from each earlier revision, down again, and up once more."""

import pytest

from app.postgres.migrations import upgrade
from tests.harness.servers import execute
from tests.migrations.test_upgrade import downgrade

EARLIER = ("0001", "0002", "0003", "0004", "0005", "0006")
_DATA = "INSERT INTO products (id, name, price_cents, stock) VALUES ('jug', 'Jug', 5, 7), ('gone', 'Gone', 5, 7)"
_PRODUCTS = "SELECT id, name, price_cents, stock, version, created_at, updated_at, deleted_at FROM products ORDER BY id"
_LEDGER = "SELECT coalesce(sum(delta), 0)::int FROM stock_movements WHERE product_id = 'jug'"


@pytest.mark.parametrize("revision", EARLIER)
async def test_products_survive_up_down_up(empty_database_url: str, revision: str) -> None:
    """Products and tombstones stay as they are in each direction; after each way up the ledger agrees with the stock."""
    await upgrade(empty_database_url, revision)
    await execute(empty_database_url, _DATA)
    await execute(empty_database_url, "DELETE FROM products WHERE id = 'gone'")
    before = await execute(empty_database_url, _PRODUCTS)
    assert len(before) == 2
    for _ in range(2):
        assert await upgrade(empty_database_url) == revision
        assert await execute(empty_database_url, _PRODUCTS) == before
        assert await execute(empty_database_url, _LEDGER) == [(7,)]
        await downgrade(empty_database_url, revision)
        assert await execute(empty_database_url, _PRODUCTS) == before
