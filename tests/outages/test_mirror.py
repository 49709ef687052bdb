"""Mirrors of a fleet in a storm: what is copied by following the feed equals the database, and no read contradicts an event.

Two followers, the mirror of docs/FEED.md and a copy of the ledger and of all reservations, are killed as the services and
PostgreSQL are. Meanwhile products are written through three instances and by hand, units are held, sold, released and given
back when their time is over, the table is truncated, and a dump is restored.
"""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

from app.products.balance import deviations
from tests.harness.client import NoAnswerError
from tests.harness.cluster import ROOT, Cluster, start_cluster
from tests.harness.standby import run_program
from tests.limits import open_database
from tests.outages.mirror_program import CONNECTIONS, LEDGER, RESERVATIONS, TABLES, Fleet

SEED = 14
FEW, MANY = 12, 400
"""Products of the short form, and of the long one, in which a page tells of many."""
WRITERS = 4
LAST_S = 60.0
"""How long a follower may take until it has told the last product."""
GETS = int(os.environ.get("MIRROR_GETS", "1_000_000"))
"""Reads of the long form."""
BUSY_S, STEADY_S = 0.005, 0.05
"""Pauses of a writer in the short form, and in the long one, whose ledger would grow too large."""
PRODUCTS = "SELECT id, version, name, price_cents, stock FROM products WHERE deleted_at IS NULL"
TOLD = """
SELECT product, version, line, delta, stock, reserved_delta, reserved, reservation FROM told
WHERE run = (SELECT run FROM place)
"""
BEFORE = """
SELECT product, version, line, delta, stock, reserved_delta, reserved, reservation FROM before
WHERE run = (SELECT run FROM place)
"""
KEPT = "SELECT id, version, status, ends FROM reservation WHERE run = (SELECT run FROM place)"
HELD = "SELECT 1 FROM products WHERE reserved > 0 LIMIT 1"
ENDS = "SELECT DISTINCT reason FROM stock_movements WHERE reservation_id IS NOT NULL"
READS = "SELECT number, hits, events FROM reads"
LATEST = 50
"""Holds that somebody may still want to end: those of the last seconds."""

Strike = Callable[["Storm"], Awaitable[None]]


class Follower:
    """A process that follows, and the file where it keeps what it was told."""

    def __init__(self, kind: str, cluster: Cluster) -> None:
        self.file = cluster.directory / f"{kind}.sqlite"
        ports = [str(instance.endpoint.port) for instance in cluster.instances]
        self._command = [sys.executable, "-m", "tests.outages.mirror_program", kind, str(self.file), cluster.url, *ports]
        self._log = cluster.directory / f"{kind}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def said(self) -> str:
        """What it wrote before it ended by itself; empty while it runs."""
        return self._log.read_text() if self._process is not None and self._process.poll() is not None else ""

    def rows(self, statement: str) -> list[Any]:
        """What it has kept; nothing before it has made its tables."""
        with sqlite3.connect(self.file, timeout=30) as db, suppress(sqlite3.OperationalError):
            return db.execute(statement).fetchall()
        return []

    async def until(self, statement: str) -> None:
        """Wait until it has kept such a row."""
        end = time.monotonic() + LAST_S
        while not self.rows(statement):
            assert not self.said, self.said
            assert not (found := self.rows("SELECT what FROM found LIMIT 3")), found
            assert time.monotonic() < end, (self.file.name, self.rows("SELECT * FROM place"))
            await asyncio.sleep(0.1)

    @property
    def reads(self) -> Counter[str]:
        """How many reads it has compared, how many of them were hits, and of how many events."""
        found = [Counter(reads=reads, hits=hits, events=events) for reads, hits, events in self.rows(READS)]
        return sum(found, Counter())


class Storm:
    """A fleet, its followers, those who write, and whatever happens to them."""

    def __init__(self, cluster: Cluster, products: int, pause_s: float) -> None:
        self.cluster = cluster
        self.pause_s = pause_s
        self.ids = [f"m{number}" for number in range(products)]
        self.chance = Random(SEED)
        self.mirror = Follower("mirror", cluster)
        self.ledger = Follower("ledger", cluster)
        self.struck: list[str] = []
        self.held: deque[str] = deque(maxlen=LATEST)
        self.hand = asyncio.Lock()
        """Held by whoever writes with SQL: a table that is being restored has no triggers yet, so nothing records it."""
        self._numbers = count()

    @property
    def followers(self) -> tuple[Follower, Follower]:
        return self.mirror, self.ledger

    @property
    def reads(self) -> Counter[str]:
        """How many reads were compared with events, by both followers."""
        return sum((follower.reads for follower in self.followers), Counter())

    async def write(self) -> None:
        """Write through any instance, for ever. Whatever is refused or lost was not meant to succeed."""
        while True:
            method, path, body = self._request(next(self._numbers))
            with suppress(NoAnswerError):
                instance = self.chance.choice(self.cluster.instances)
                answer = await instance.endpoint.request(method, path, body=json.dumps(body).encode(), timeout_s=5)
                if path == "/reservations" and answer.status == 201:
                    self.held.append(json.loads(answer.body)["id"])
            await asyncio.sleep(self.pause_s)

    def _request(self, number: int) -> tuple[str, str, dict[str, object]]:
        """Something to write: method, path and body."""
        kinds = ("put", "adjust", "delete", "hold", "end" if self.held else "hold")
        kind = self.chance.choices(kinds, (3, 12, 1, 4, 4))[0]
        keys = self.chance.sample(self.ids, 1 + number % 3)
        if kind == "adjust":
            lines: list[dict[str, object]] = [{"product_id": key, "delta": 1} for key in keys]
            return "POST", "/stock/adjustments", {"lines": lines, "reason": "receipt"}
        if kind == "hold":
            # Short: whatever nobody ends is given back by whoever needs it, or by the tidier.
            lines = [{"product_id": key, "quantity": 2} for key in keys]
            return "POST", "/reservations", {"lines": lines, "expires_in_s": 1 + number % 2}
        if kind == "end":
            verb = self.chance.choice(("commit", "commit", "release", "extend"))
            path = f"/reservations/{self.chance.choice(self.held)}/{verb}"
            return "POST", path, {"expires_in_s": 2} if verb == "extend" else {}
        # With a stock, so that a deletion is in the ledger.
        body = {"name": f"Mug {number}", "price_cents": number, "stock": 1 + number % 50}
        return "PUT" if kind == "put" else "DELETE", f"/products/{keys[0]}", body

    async def write_by_hand(self) -> None:
        """Change rows with SQL, one or many in a transaction, for ever."""
        while True:
            with suppress(psycopg.Error):
                async with self.hand, await self.cluster.session() as session:
                    await session.execute("SET lock_timeout = '2s'")
                    async with session.transaction(force_rollback=self.chance.random() < 0.2):
                        keys = sorted(self.chance.sample(self.ids, len(self.ids) // 4))
                        await session.execute(
                            "UPDATE products SET stock = stock + 2 WHERE id = ANY(%s) AND deleted_at IS NULL", [keys[:3]]
                        )
                        await session.execute(
                            "UPDATE products SET price_cents = price_cents + 1 WHERE id = ANY(%s) AND deleted_at IS NULL",
                            [keys],
                        )
                        await asyncio.sleep(self.chance.uniform(0, 0.3))
            await asyncio.sleep(self.chance.uniform(0, 0.3))

    async def add(self, key: str) -> None:
        """Create a product that nobody else writes."""
        async with await self.cluster.session() as session:
            await session.execute("INSERT INTO products (id, name, price_cents, stock) VALUES (%s, 'Last', 1, 1)", [key])

    async def strike(self, strike: Strike) -> None:
        """Let one thing happen."""
        self.struck.append(strike.__name__)
        await strike(self)
        await asyncio.sleep(self.chance.uniform(0.3, 1.0))


async def kill_service(storm: Storm) -> None:
    """Kill one of the three instances and start it again."""
    instance = storm.chance.choice(storm.cluster.instances)
    await instance.kill()
    await instance.restart(storm.cluster.database)


async def kill_followers(storm: Storm) -> None:
    """Kill both followers and start them again, twice."""
    for _ in range(2):
        for follower in storm.followers:
            follower.kill()
            follower.start()
        await asyncio.sleep(storm.chance.uniform(0.5, 1.5))


async def kill_postgres(storm: Storm) -> None:
    """Kill PostgreSQL beside open transactions and start it again."""
    await storm.cluster.postgres.kill()
    await storm.cluster.postgres.restart()


async def truncate(storm: Storm) -> None:
    """All products go, and some come back at version 1."""
    async with await storm.cluster.session() as session, session.transaction():
        await session.execute("TRUNCATE products")
        await session.execute(
            "INSERT INTO products (id, name, price_cents, stock) SELECT id, 'Back', 1, 1 FROM unnest(%s::text[]) id",
            [storm.ids],
        )


async def restore(storm: Storm) -> None:
    """A dump of a moment ago comes back."""
    dump = storm.cluster.directory / "storm.dump"
    await run_program("pg_dump", "-Fc", "-f", dump, storm.cluster.url)
    await asyncio.sleep(1)
    async with storm.hand:
        await run_program("pg_restore", "--clean", "--if-exists", "-d", storm.cluster.url, dump)


@contextmanager
def running(*followers: Follower) -> Iterator[None]:
    """Followers that run until the end."""
    for follower in followers:
        follower.start()
    try:
        yield
    finally:
        for follower in followers:
            follower.kill()


@asynccontextmanager
async def storming(directory: Path, products: int, pause_s: float) -> AsyncIterator[Storm]:
    """A fleet whose followers and writers are at work. Afterwards the writers rest, and everything is compared."""
    async with start_cluster(directory, instances=3) as cluster:
        storm = Storm(cluster, products, pause_s)
        await truncate(storm)
        with running(*storm.followers):
            writers = [asyncio.create_task(storm.write()) for _ in range(WRITERS)] + [
                asyncio.create_task(storm.write_by_hand())
            ]
            yield storm
            await storm.add("z-first")
            await storm.ledger.until(f"{TOLD} AND product = 'z-first' UNION {BEFORE} AND product = 'z-first'")
            await asyncio.sleep(1)
            for writer in writers:
                writer.cancel()
            await asyncio.gather(*writers, return_exceptions=True)
            await compare(storm)


async def compare(storm: Storm) -> None:
    """Wait until the followers have been told the last product; then they have what the database has."""
    async with await storm.cluster.session() as session:
        async with asyncio.timeout(LAST_S):
            while await (await session.execute(HELD)).fetchone():
                await asyncio.sleep(0.1)
        await storm.add("z-last")
        await storm.mirror.until("SELECT 1 FROM mirror WHERE id = 'z-last'")
        await storm.ledger.until(TOLD + " AND product = 'z-last'")
        assert [row for follower in storm.followers for row in follower.rows("SELECT what FROM found LIMIT 5")] == []
        products = {tuple(row) for row in await (await session.execute(PRODUCTS)).fetchall()}
        bodies = [
            (key, version, json.loads(body))
            for key, version, body in storm.mirror.rows("SELECT id, version, body FROM mirror WHERE body IS NOT NULL")
        ]
        assert {(key, version, it["name"], it["price_cents"], it["stock"]) for key, version, it in bodies} == products
        movements = {tuple(row) for row in await (await session.execute(LEDGER)).fetchall()}
        assert set(storm.ledger.rows(TOLD) + storm.ledger.rows(BEFORE)) == movements
        reservations = {tuple(row) for row in await (await session.execute(RESERVATIONS)).fetchall()}
        assert set(storm.ledger.rows(KEPT)) == reservations
        ends = {reason for (reason,) in await (await session.execute(ENDS)).fetchall()}
        assert ends >= {"hold", "sale", "release", "expiry"}
    database = open_database(storm.cluster.url)
    found = await deviations(database, limit=3)
    assert found == [], found
    await database.close()
    # What compares reads with events can fail: z-last was never changed.
    assert await asyncio.to_thread(contradicted, storm.cluster, 1) == 0
    assert await asyncio.to_thread(contradicted, storm.cluster, 2) == CONNECTIONS * len(storm.cluster.instances)


def contradicted(cluster: Cluster, version: int) -> int:
    """Return how many reads contradict an event of this version of the last product."""
    ports = [instance.endpoint.port for instance in cluster.instances]
    with closing(sqlite3.connect(":memory:")) as db, closing(Fleet(db, cluster.url, ports)) as fleet:
        db.executescript(TABLES)
        cursor = fleet.get("/changes").raise_for_status().json()["next"]
        fleet.check([{"type": "product", "id": "z-last", "version": version, "product": {}}], cursor)
        [(found,)] = db.execute("SELECT count(*) FROM found").fetchall()
        return int(found)


STRIKES: tuple[Strike, ...] = (kill_followers, kill_service, kill_postgres, truncate, kill_followers, restore, kill_service)


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.guarantee("R11")
async def test_mirrors_equal_the_database_after_a_storm(outage_directory: Path) -> None:
    """Killed with SIGKILL, written by hand, truncated and restored: all products and movements, and no older read."""
    async with storming(outage_directory, FEW, BUSY_S) as storm:
        for strike in STRIKES:
            await storm.strike(strike)
    assert storm.reads["reads"] > 2_000


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.guarantee("R11")
async def test_mirrors_equal_the_database_after_many_storms(outage_directory: Path) -> None:
    """The same until a million reads were compared (``MIRROR_GETS`` names another number)."""
    began = time.monotonic()
    async with storming(outage_directory, MANY, STEADY_S) as storm:
        while storm.reads["reads"] < GETS:
            await storm.strike(storm.chance.choice(STRIKES))
            await asyncio.sleep(5)
            done = f"{time.monotonic() - began:.0f} s: {dict(storm.reads)}, {dict(Counter(storm.struck))}"
            print(done, flush=True)  # noqa: T201 - the figures
