"""Every named statement with the parameters it is given, and how PostgreSQL would run it."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from app.cache.postgres import table_queries
from app.feed import queries as feed_queries
from app.postgres.database import Session
from app.products import accepted_queries, queries, reservation_queries
from app.products.source import PRODUCTS
from tests.harness.million import BUSY, HOT, ids

Node = dict[str, Any]
Parameters = Mapping[str, Any]

TABLES = ("products", "stock_movements", "idempotency_records", "reservations", "reservation_lines")
"""Those that grow. Marks of the feed are few; ``test_accepted_plans`` looks at accepted writes while many wait."""

STATEMENTS: Mapping[str, LiteralString] = {
    prefix + name: text
    for prefix, module in (
        ("", queries),
        ("", table_queries),
        ("", accepted_queries),
        ("FEED_", feed_queries),
        ("RESERVATIONS_", reservation_queries),
    )
    for name, text in vars(module).items()
    if isinstance(text, str) and name.isupper() and not name.startswith("_") and not name.endswith("_TEXT")
} | {
    "CHANGES": table_queries.changes(PRODUCTS).as_string(),
    "LOAD": table_queries.load(PRODUCTS).as_string(),
    "LOAD_AND_CHANGED": table_queries.read_back(PRODUCTS).as_string(),
    "FEED_WINDOW": feed_queries.WINDOW.as_string(),
    "FEED_EVENTS": feed_queries.EVENTS.as_string(),
}


def _columns(count: int, prefix: str) -> dict[str, Any]:
    numbers = {name: [9] * count for name in ("prices", "stocks", "reorder_points", "reserved")}
    return {"ids": [prefix + key for key in ids(count)], "names": ["Mug"] * count, **numbers, "versions": [70_000] * count}


def _rows(count: int) -> dict[str, Any]:
    row = {"name": "Mug", "price": 9, "stock": 9, "reorder_point": 9, "version": 70_000, "created": False, "reserved": 0}
    return {"rows": json.dumps([{"id": key, **row} for key in ids(count)]), "ids": ids(count)}


def _entries(count: int) -> dict[str, Any]:
    entry = {"version": 70_000, "line": 1, "delta": 1, "stock": 1, "reason": "sale", "reserved_delta": 0, "reserved": 0}
    return {"rows": json.dumps([{"id": key, **entry} for key in ids(count)]), "count": count}


def _load(count: int) -> dict[str, Any]:
    return {"relation": "products", "knows": 3, "keys": ids(count), "limit": 1_000}


def _keys(count: int) -> dict[str, Any]:
    return {"callers": [""] * count, "keys": [f"key-{number}" for number in range(count)]}


def _accepted(count: int) -> dict[str, Any]:
    return {
        **_keys(count),
        "hashes": [b"h"] * count,
        "product_ids": ids(count),
        "operations": ["putStock"] * count,
        "targets": ["/products/p/stock"] * count,
        "conditions": ["[]"] * count,
        "bodies": [b"{}"] * count,
        "request_ids": [None] * count,
    }


_AUDIT = {
    "relation": "products",
    "relations": ["products"],
    "namespace": "n",
    "namespaces": ["n"],
    "schemas": [3],
    "servers": ["s"],
    "epochs": ["e"],
    "cycles": [1],
    "snapshot": "10:10:",
    "ttl_s": 2.0,
    "max_ttl_s": 2.0,
    "margin_s": 0.05,
    "knows": 3,
}
_PAGES: Sequence[Parameters] = [
    {"limit": 51, "prefix": prefix, "after_id": after_id, "after_key": after_key}
    for prefix in ("", "b", "blue", "blue mug 7", "nothing")
    for after_id, after_key in (("", ""), ("p0900000", "blue mug 900000"))
]
_TOP = {"version": 2**63 - 1, "line": 0, "limit": 51}
_LEDGERS: Sequence[Parameters] = [{**_TOP, "product_id": key} for key in (HOT, "p0000005", "nothing")]
_REFERENCES: Sequence[Parameters] = [
    {**_TOP, "reference": reference, "created_at": "infinity", "product_id": ""}
    for reference in (BUSY, "sql", "order-7", "nothing")
]


def _reservations(count: int) -> list[str]:
    """The ids of different reservations, far from one another, all of them open."""
    return [f"{10 + number * 3_970 % 200_000:032x}" for number in range(count)]


def _new_reservations(count: int) -> dict[str, Any]:
    rows = [{"id": f"f{number:031x}", "created_at": "2026-01-31Z", "expires_at": "2026-02-01Z"} for number in range(count)]
    lines = [row | {"line": 0, "product": key, "quantity": 1} for row, key in zip(rows, ids(count), strict=True)]
    return {"rows": json.dumps(rows), "lines": json.dumps(lines)}


def _changes(count: int, **change: object) -> dict[str, Any]:
    named = _reservations(count)
    return {"rows": json.dumps([{"id": key} | change for key in named]), "ids": named}


_OPEN = {"committed": 0, "released": 1, "expired": 0, "line": 0}
_HOLDS: Sequence[Parameters] = [
    {"owner": owner, "created_at": "infinity", "id": "", "status": status, "limit": 51}
    for owner in ("cart-9", "p0000005", "nothing")
    for status in ("", "held")
]
_WINDOW = {
    "knows": 3,
    "since": 1,
    "upto": 2,
    "products": True,
    "movements": True,
    "reservations": True,
    "id": "",
    "version": 0,
    "line": -1,
}
_WINDOWS: Sequence[Parameters] = [
    {**_WINDOW, "limit": limit, **other}
    for limit in (1, 1_000)
    for other in (
        {},
        {"id": "p0500000"},
        {"products": False},
        {"movements": False},
        {"reservations": False},
        {"since": 2},
        {"since": 9},
    )
]
_ANSWER = {"request_hash": b"h", "status": 200, "body": b"b", "etag": None, "location": None, "product_ids": ids(2)}

CASES: Mapping[str, Sequence[Parameters]] = {
    "LOAD": [_load(count) for count in (1, 32, 250, 2_000, 10_000)],
    "LOAD_AND_CHANGED": [_load(count) for count in (1, 32)],
    "READ_BACK": [{"ids": ids(count), "knows": 3, "epoch": ""} for count in (1, 32, 2_000)],
    "LOCK_TIMEOUT": [{"timeout": "100"}],
    "WAIT": [{"ids": ids(count)} for count in (1, 32)],
    "NEWEST_MOVEMENTS": [{"ids": ids(count)} for count in (1, 200)],
    "LOCK": [{"ids": ids(count)} for count in (1, 32, 2_000)],
    "INSERT": [{**_columns(count, "new-"), "gone": [False] * count} for count in (1, 1_000)],
    "UPDATE": [_rows(count) for count in (1, 32, 2_000)],
    "BURY": [{"ids": ids(count), "versions": [70_000] * count} for count in (1, 200)],
    "LIST_BY_ID": _PAGES,
    "LIST_BELOW_REORDER_POINT": _PAGES,
    "LIST_UNCOVERED": _PAGES,
    "LIST_BY_NAME": _PAGES,
    "PRODUCTS_OF_RESERVATIONS": [{"ids": _reservations(count)} for count in (1, 500)],
    "RESERVATIONS_ENABLED": [{}],
    "RESERVATIONS_LOCK": [{"ids": ids(count), "reservations": _reservations(count)} for count in (0, 1, 32, 500)],
    "RESERVATIONS_READ": [{"ids": _reservations(count)} for count in (0, 1, 500)],
    "RESERVATIONS_READ_ENDED": [
        {"ids": ids(count), "known": ["2026-01-31Z"] * count, "swept": ["-infinity"] * count, "moment": "", "limit": 2_001}
        for count in (1, 32)
    ],
    "RESERVATIONS_LOCK_OTHERS": [{"ids": _reservations(count)} for count in (1, 500)],
    "RESERVATIONS_INSERT": [_new_reservations(count) for count in (1, 200)],
    "RESERVATIONS_USE_LINES": [_changes(count, **_OPEN) for count in (1, 500)],
    "RESERVATIONS_MOVE_ENDS": [_changes(count, expires_at="2100-01-01Z") for count in (1, 200)],
    "RESERVATIONS_CHANGE": [_changes(count, rise=1, status="expired", moment="2100-01-01Z") for count in (1, 500)],
    "RESERVATIONS_GET": [{"id": key} for key in (*_reservations(1), "none")],
    "RESERVATIONS_LIST_BY_REFERENCE": _HOLDS,
    "RESERVATIONS_LIST_BY_PRODUCT": _HOLDS,
    "RESERVATIONS_ENDED": [{"limit": 500, "lines": 2_000}],
    "RESERVATIONS_HELD": [{"limit": 2_000, "lines": 2_000}],
    "RESERVATIONS_FORGET": [{"age_s": age_s, "limit": 500} for age_s in (60.0, 2_592_000.0)],
    "STANDING": [_AUDIT],
    "ADOPT": [_AUDIT],
    "ANNOUNCE": [_AUDIT],
    "COMPLETE": [_AUDIT],
    "SNAPSHOT": [_AUDIT],
    "EPOCH": [_AUDIT],
    "READY": [_AUDIT],
    "CHANGES": [{"xid": str(2**62)}],
    "RECORD": [_entries(count) for count in (1, 32, 2_000)],
    "MOVEMENTS": _LEDGERS,
    "MOVEMENTS_BY_REFERENCE": _REFERENCES,
    "LATEST_MOVEMENTS": [{"limit": limit} for limit in (1, 10)],
    "HAS_LEDGER": _LEDGERS,
    "LOCK_KEYS": [_keys(count) for count in (1, 200)],
    "STORED_ANSWERS": [_keys(count) for count in (1, 200)],
    "STORE_ANSWER": [{**_ANSWER, "caller": "", "key": "new"}],
    "FORGET": [{"age_s": age_s, "limit": 1_000} for age_s in (60.0, 86_400.0)],
    "TAKE_LOWEST": [{"limit": 200}],
    "TAKE_BEFORE": [{"ids": ids(count), **_keys(count), "limit": 201} for count in (1, 200)],
    "APPLIED": [{"seqs": list(range(count))} for count in (1, 200)],
    "FAILED": [{"seqs": list(range(count)), "failures": ["Error"] * count} for count in (1, 200)],
    "ACCEPTED": [_keys(count) for count in (1, 200)],
    "ACCEPT": [_accepted(count) for count in (1, 200)],
    "BACKLOG": [{"limit": 100_000}],
    "FEED_NEWEST": [_AUDIT],
    "FEED_MARK": [_AUDIT],
    "FEED_STEP": [{**_WINDOW, "limit": limit} for limit in (1, 5_000)],
    "FEED_WINDOW": _WINDOWS,
    "FEED_KEYS": _WINDOWS,
    "FEED_EVENTS": [
        {**_WINDOW, "ids": ids(count), "versions": [1] * count, "lines": [line] * count}
        for count in (1, 1_000)
        for line in (-1, 0)
    ],
    "FEED_FORGET": [{"age_s": age_s, "limit": 1_000} for age_s in (0.0, 86_400.0)],
}


async def explain(session: Session, statement: LiteralString, parameters: Parameters, *, run: bool = False) -> Node:
    """The plan of a statement prepared in this session, under the session's settings; with what it read if it is run."""
    how = sql.SQL("EXPLAIN (FORMAT JSON, ANALYZE, BUFFERS) " if run else "EXPLAIN (FORMAT JSON) ")
    connection = session._connection
    if statement is STATEMENTS["CHANGES"]:  # a cursor: it cannot be prepared, and is planned each time
        cursor = await connection.execute(how + sql.SQL(statement), parameters)
    else:
        names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
        numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", statement)
        await connection.execute(f"PREPARE explained AS {numbered}".encode())
        values = sql.SQL("({})").format(sql.SQL(", ").join(sql.Placeholder() * len(names))) if names else sql.SQL("")
        by_client = psycopg.AsyncClientCursor(connection)
        cursor = await by_client.execute(how + sql.SQL("EXECUTE explained") + values, [parameters[name] for name in names])
        await connection.execute("DEALLOCATE explained")
    [[[plan]]] = await cursor.fetchall()
    found: Node = plan["Plan"]
    return found


def nodes(plan: Node) -> Iterator[Node]:
    """A plan's steps."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def scans(plan: Node) -> list[str]:
    """The growing tables that a plan reads without going by a key to the rows that it wants, and how."""
    by_key = ("Index Cond", "Recheck Cond", "TID Cond")
    return [
        f"{node['Node Type']} of {node['Relation Name']}"
        for node in nodes(plan)
        if node.get("Relation Name") in TABLES
        and node["Node Type"] != "ModifyTable"
        and not any(cond in node for cond in by_key)
    ]


def buffers(plan: Node) -> int:
    """Pages of tables and indices that a run touched."""
    read: int = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return read
