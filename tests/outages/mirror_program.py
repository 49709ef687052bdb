"""A follower of the feed as a process that may be killed at any moment: the mirror of docs/FEED.md, or a copy of the ledger.

After each page it reads the products and reservations of its events at once, several times from every instance. A read that
shows an older state is written down, unless the history has ended meanwhile. Errors and missing answers are not compared.

    python -m tests.outages.mirror_program mirror|ledger FILE DATABASE_URL PORT...
"""

import random
import re
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests.harness.pipelined import Pipeline, Shown
from tests.harness.proxy import HOST

PAGE = Path(__file__).parents[2] / "docs" / "FEED.md"
TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS found (what TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS reads (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    number INTEGER NOT NULL, hits INTEGER NOT NULL, events INTEGER NOT NULL
);
INSERT OR IGNORE INTO reads VALUES (1, 0, 0, 0);
CREATE TABLE IF NOT EXISTS told (
    run INTEGER, product TEXT, version INTEGER, line INTEGER, delta INTEGER, stock INTEGER,
    reserved_delta INTEGER, reserved INTEGER, reservation TEXT,
    PRIMARY KEY (run, product, version, line)
);
CREATE TABLE IF NOT EXISTS before (
    run INTEGER, product TEXT, version INTEGER, line INTEGER, delta INTEGER, stock INTEGER,
    reserved_delta INTEGER, reserved INTEGER, reservation TEXT
);
CREATE TABLE IF NOT EXISTS reservation (
    run INTEGER, id TEXT, version INTEGER, status TEXT, ends TEXT, PRIMARY KEY (run, id)
);
"""
LEDGER = """
SELECT product_id, version, line, delta, stock_after, reserved_delta, reserved_after, reservation_id FROM stock_movements
"""
RESERVATIONS = """
SELECT id, version, status, to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') FROM reservations
"""
STORE_RESERVATION = """
INSERT INTO reservation VALUES (?, ?, ?, ?, ?) ON CONFLICT (run, id)
DO UPDATE SET version = excluded.version, status = excluded.status, ends = excluded.ends WHERE excluded.version > version
"""
DELETED = "SELECT 1 FROM stock_movements WHERE product_id = %s AND version >= %s AND reason = 'deletion'"
CONNECTIONS = 8
"""Connections to each instance. Each asks for everything that a page tells of, in an order of its own."""
COUNT = "UPDATE reads SET number = number + ?, hits = hits + ?, events = events + ?"
_TIMEOUT_S = 5.0
_HISTORY_S = 1.0
"""How long an instance may go on to take a cursor of a history that has ended."""
_AGAIN_S = 0.1


class Fleet:
    """An HTTP client of all instances, as the mirror wants one."""

    def __init__(self, db: sqlite3.Connection, database_url: str, ports: Sequence[int]) -> None:
        self._db = db
        self._database_url = database_url
        self._ports = ports
        self._client = httpx.Client()
        self._pipelines = [Pipeline(port, _TIMEOUT_S) for port in ports for _ in range(CONNECTIONS)]

    def close(self) -> None:
        """Close all connections."""
        self._client.close()
        for pipeline in self._pipelines:
            pipeline.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None, timeout: float = _TIMEOUT_S) -> httpx.Response:
        """Ask any instance; check what a page of the feed tells before it is given to the caller."""
        query = None if params is None else {**params, "wait": 1} if "wait" in params else params
        answer = self._client.get(f"http://{HOST}:{random.choice(self._ports)}{path}", params=query, timeout=timeout)
        if path == "/changes" and answer.status_code == httpx.codes.OK:
            document = answer.json()
            self.check(document["items"], document["next"])
        return answer

    def check(self, items: Sequence[Mapping[str, Any]], cursor: str) -> None:
        """Read what these events tell of, and write down each read that shows an older state."""
        # In order, so that the last event about a product or a reservation has its highest version.
        told = {_path_of(event): event["version"] for event in items}
        gone = {_path_of(event) for event in items if event["type"] == "product" and event["product"] is None}
        compared = hits = 0
        older: list[tuple[str, int]] = []
        for path, shown in self._read(list(told)):
            if shown.status not in (httpx.codes.OK, httpx.codes.NOT_FOUND):
                continue
            compared += 1
            hits += shown.hit
            if shown.version < told[path] and not (shown.status == httpx.codes.NOT_FOUND and path in gone):
                older.append((path, shown.version))
        # What was deleted after the event proves nothing.
        gone = {path for path, version in set(older) if not version and self._deleted(path, told[path])}
        compared -= sum(path in gone and not version for path, version in older)
        older = [(path, version) for path, version in older if version or path not in gone]
        if older and self._ended(cursor):
            return
        found = [f"version {told[path]} of {path} was told, then {version} was read" for path, version in older]
        with self._db:
            self._db.execute(COUNT, (compared, hits, len(told) if compared else 0))
            self._db.executemany("INSERT INTO found VALUES (?)", [(what,) for what in found])

    def _read(self, paths: list[str]) -> Iterator[tuple[str, Shown]]:
        """Yield what all instances show at once for each path."""
        orders = [random.sample(paths, len(paths)) for _ in self._pipelines]
        for pipeline, order in zip(self._pipelines, orders, strict=True):
            pipeline.send(order)
        for pipeline, order in zip(self._pipelines, orders, strict=True):
            yield from zip(order, pipeline.receive(), strict=False)

    def _deleted(self, path: str, version: int) -> bool:
        """Whether a product was deleted in that version or a later one, as the ledger says. Reservations are not deleted."""
        product_id = path.removeprefix("/products/")
        try:
            with psycopg.connect(self._database_url, autocommit=True, connect_timeout=5) as connection:
                row = connection.execute(DELETED, (product_id, version)).fetchone()
        except psycopg.Error:
            return True  # PostgreSQL was killed: nothing can be said
        return row is not None

    def _ended(self, cursor: str) -> bool:
        """Whether the history of a cursor has ended. Then versions may go back."""
        time.sleep(_HISTORY_S)
        while True:
            try:
                answer = self._client.get(f"http://{HOST}:{random.choice(self._ports)}/changes", params={"after": cursor})
            except httpx.HTTPError:
                continue
            if answer.status_code in (httpx.codes.OK, httpx.codes.GONE):
                return answer.status_code == httpx.codes.GONE
            time.sleep(_AGAIN_S)


def _path_of(event: Mapping[str, Any]) -> str:
    if event["type"] == "reservation":
        return f"/reservations/{event['id']}"
    return f"/products/{event.get('product_id', event.get('id'))}"


def mirror_code() -> str:
    """The program in the page."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return str(code)


def keep_mirror(db: sqlite3.Connection, fleet: Fleet) -> None:
    """Run the mirror until something fails."""
    names: dict[str, Any] = {}
    exec(mirror_code(), names)  # noqa: S102 - the page's program is what is tested
    names["keep_mirror"](db, fleet)


def keep_ledger(db: sqlite3.Connection, fleet: Fleet, database_url: str) -> None:
    """Copy ledger and reservations as they are, and then every movement and reservation that is told, until something fails."""
    with db:
        db.execute("CREATE TABLE IF NOT EXISTS place (singleton INTEGER PRIMARY KEY, cursor TEXT, run INTEGER NOT NULL)")
        db.execute("INSERT OR IGNORE INTO place VALUES (1, NULL, 0)")
    while True:
        cursor, run = db.execute("SELECT cursor, run FROM place").fetchone()
        if cursor is None:
            cursor = fleet.get("/changes").raise_for_status().json()["next"]
            with psycopg.connect(database_url, autocommit=True, connect_timeout=5) as connection:
                rows = connection.execute(LEDGER).fetchall()
                reservations = connection.execute(RESERVATIONS).fetchall()
            with db:
                # Nobody looks at what was told of an earlier history.
                for table in ("before", "told", "reservation"):
                    db.execute(f"DELETE FROM {table}")  # noqa: S608 - one of these
                db.executemany("INSERT INTO before VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", [(run + 1, *row) for row in rows])
                db.executemany(STORE_RESERVATION, [(run + 1, *row) for row in reservations])
                db.execute("UPDATE place SET cursor = ?, run = ?", (cursor, run + 1))
            continue
        answer = fleet.get("/changes", params={"after": cursor, "wait": 30, "limit": 200})
        with db:
            if answer.status_code == httpx.codes.GONE:
                db.execute("UPDATE place SET cursor = NULL")
                continue
            document = answer.raise_for_status().json()
            for what in _faults(db, run, document["items"]):
                db.execute("INSERT INTO found VALUES (?)", (what,))
            db.execute("UPDATE place SET cursor = ?", (document["next"],))


def _faults(db: sqlite3.Connection, run: int, items: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Keep the movements and reservations of a page; yield what is wrong with them."""
    for item in items:
        if item["type"] == "reservation":
            body = item["reservation"]
            db.execute(STORE_RESERVATION, (run, item["id"], item["version"], body["status"], body["expires_at"]))
        if item["type"] != "movement":
            continue
        place = (run, item["product_id"])
        version, line = item["version"], item["line"]
        last = db.execute("SELECT version, line FROM told WHERE run = ? AND product = ? ORDER BY 1 DESC, 2 DESC LIMIT 1", place)
        if (before := last.fetchone()) is not None and before >= (version, line):
            yield f"{item['product_id']} {version}.{line} was told after {before}"
        held = (item["reserved_delta"], item["reserved_after"], item["reservation_id"])
        row = (*place, version, line, item["delta"], item["stock_after"], *held)
        db.execute("INSERT OR IGNORE INTO told VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def main() -> None:
    """Follow until killed. Whatever fails is tried again."""
    kind, file, database_url, *ports = sys.argv[1:]
    db = sqlite3.connect(file, timeout=30)
    db.executescript(TABLES)
    fleet = Fleet(db, database_url, [int(port) for port in ports])
    while True:
        try:
            if kind == "mirror":
                keep_mirror(db, fleet)
            else:
                keep_ledger(db, fleet, database_url)
        except (httpx.HTTPError, psycopg.Error):
            time.sleep(_AGAIN_S)


if __name__ == "__main__":
    main()
