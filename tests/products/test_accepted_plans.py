"""The statements that look for accepted writes are planned while none waits, and the plans are good while many do."""

import re
from collections.abc import Mapping
from typing import Any, LiteralString

import pytest

from app.products.accepted_queries import ACCEPTED, TAKE_BEFORE, TAKE_LOWEST
from tests.limits import open_database
from tests.products.plans import nodes

MANY = b"""
INSERT INTO accepted_writes (caller, key, request_hash, product_ids, operation, target, conditions, body)
SELECT '', 'k' || n, 'h', ARRAY['p' || n % 2000], 'putStock', '/products/p/stock', '[]', '{}' FROM generate_series(1, 5000) n
"""
KEYS = {"callers": '\'{"",""}\'', "keys": "'{k4,none}'"}


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (TAKE_BEFORE, {"ids": "'{p7,q}'", **KEYS, "limit": "201"}),
        (TAKE_LOWEST, {"limit": "200"}),
        (ACCEPTED, KEYS),
    ],
    ids=["before", "lowest", "accepted"],
)
async def test_plan_kept_from_an_empty_table(database_url: str, statement: LiteralString, values: Mapping[str, str]) -> None:
    """No step reads more rows than a transaction may take."""
    database = open_database(database_url)
    async with database.writes.session() as session:
        connection: Any = session._connection
        names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
        numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", statement)
        execute = f"EXECUTE kept ({', '.join(values[name] for name in names)})".encode()
        await connection.execute(f"PREPARE kept AS {numbered}".encode())
        await connection.execute(execute)
        await connection.execute(MANY)
        cursor = await connection.execute(b"EXPLAIN (FORMAT JSON, ANALYZE) " + execute)
        [[[plan]]] = await cursor.fetchall()
        await session.rows("ROLLBACK")
    await database.close()
    found = list(nodes(plan["Plan"]))
    assert max(node["Actual Rows"] for node in found) <= 201
    assert sum(node["Actual Rows"] for node in found) > 0
