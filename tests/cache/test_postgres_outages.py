"""PostgreSQL is restarted under reads and writes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from app.cache.errors import Overloaded, SourceUnavailable
from app.cache.write_through import Status
from app.postgres.errors import DatabaseError, DatabaseUnavailable
from app.private_servers import PostgresServer
from app.products.commands import Create, set_stock
from app.products.errors import OutcomeUnknown
from tests.cache.rig import Process, draft, open_process, until
from tests.cache.taps import Tap, postgres_proxy
from tests.harness.script import PATIENCE_S
from tests.harness.servers import know_history
from tests.limits import open_database

KEYS = [f"p{number}" for number in range(6)]


@pytest.fixture
async def served(redis_url: str, private_postgres: PostgresServer, namespace: str) -> AsyncIterator[Process]:
    """A process whose products are hits, proven current for the whole test."""
    await know_history(private_postgres.url, namespace)
    async with open_process(redis_url, private_postgres.url, namespace) as process:
        await process.trust()
        for key in KEYS:
            await process.products.write(Create(draft(key)))
        yield process


async def test_postgres_is_away(served: Process, private_postgres: PostgresServer) -> None:
    """Hits go on while the fence lives, misses and writes fail with the database's error, and all work when it is back."""
    await private_postgres.kill()
    for key in KEYS:
        read = await served.cache.read(key)
        assert (read.state.version, read.status) == (1, Status.HIT)
    with pytest.raises(SourceUnavailable):
        await served.cache.read("not-cached")
    with pytest.raises((DatabaseError, OutcomeUnknown)):
        await served.products.write(set_stock(KEYS[0], 5))
    # What failed left the cache alone.
    assert ((await served.cache.read(KEYS[0])).state.version, served.store.calls.of("publish")[-1]) == (1, (KEYS[-1],))

    await private_postgres.start()
    assert (await served.cache.read("not-cached")).state.version == 0
    assert (await served.products.write(set_stock(KEYS[0], 5)))[0].row.version == 2
    assert await served.version(KEYS[0]) == 2


@pytest.mark.guarantee("R9")
async def test_unverified_answers(served: Process, private_postgres: PostgresServer) -> None:
    """R9: with the database away and nothing proven, an entry is served, flagged, only to callers who accept it."""
    await served.cache.read(KEYS[0])
    await private_postgres.kill()
    await served.redis.reads.call(("DEL", served.slots.names.fence))
    with pytest.raises(SourceUnavailable):
        await served.cache.read(KEYS[0])
    flagged = await served.cache.read(KEYS[0], stale_s=60)
    assert (flagged.status, flagged.detail, flagged.state.version) == (Status.UNVERIFIED, "unverified", 1)
    with pytest.raises(SourceUnavailable):
        await served.cache.read("not-cached", stale_s=60)
    await put_foreign_copy(served, KEYS[0])
    with pytest.raises(SourceUnavailable):
        await served.cache.read(KEYS[0], stale_s=60)
    await private_postgres.start()
    assert (await served.cache.read(KEYS[0], stale_s=60)).status is Status.BYPASS


async def put_foreign_copy(served: Process, key: str) -> None:
    """Put what another database on the same Redis holds under the id into its slot."""
    place = served.slots.names.prefix + key
    _, [held] = await served.redis.reads.call(("GET", place))
    await served.redis.reads.call(("SET", place, held[:1] + b"f" * 16 + held[17:]))


async def test_server_hangs_after_the_login(database_url: str) -> None:
    """The statement before a connection's first use has the deadline of connecting; the next connection may work."""
    tap = Tap(hang_at="synchronous_commit")
    async with postgres_proxy(database_url, tap) as url:
        database = open_database(url, connect_timeout_ms=1_000, statement_timeout_ms=3_600_000)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(DatabaseUnavailable):
                async with database.loads.session():
                    pass
        assert "synchronous_commit" in tap.seen[-1]
        tap.hang_at = ""
        await tap.proxy.heal()
        assert await database.loads.rows("SELECT 1") == [(1,)]
        await database.close()


@dataclass(slots=True)
class Client:
    """A reader and a writer of one product, who go on through an outage until they are stopped."""

    process: Process
    key: str
    acknowledged: int = 1
    unknown: int = 0
    reads: int = 0
    stopped: bool = False

    async def read(self) -> None:
        while not self.stopped:
            newest = self.acknowledged
            try:
                assert await self.process.version(self.key) >= newest
                await self.process.cache.read(self.key, refresh=True)
                self.reads += 1
            except (SourceUnavailable, Overloaded):
                await asyncio.sleep(0.01)

    async def write(self) -> None:
        while not self.stopped:
            try:
                self.acknowledged = (await self.process.products.write(set_stock(self.key, 7)))[0].row.version
            except OutcomeUnknown:
                self.unknown += 1
            except (DatabaseError, Overloaded):
                await asyncio.sleep(0.01)

    async def progress(self) -> None:
        """Return when a few more reads were answered, and a few more writes."""
        reads, acknowledged = self.reads, self.acknowledged
        await until(lambda: self.reads > reads + 2 and self.acknowledged > acknowledged + 2)


async def test_postgres_is_restarted_under_load(served: Process, private_postgres: PostgresServer) -> None:
    """Every request ends in a right answer or an error; no acknowledged write is lost, and everything works again."""
    clients = [Client(served, key) for key in KEYS]
    async with asyncio.TaskGroup() as running:
        for client in clients:
            running.create_task(client.read())
            running.create_task(client.write())
        await asyncio.gather(*(client.progress() for client in clients))
        await private_postgres.restart()
        await asyncio.gather(*(client.progress() for client in clients))
        for client in clients:
            client.stopped = True
    for client in clients:
        version = (await served.cache.read(client.key, refresh=True)).state.version
        assert client.acknowledged <= version
        assert (await served.products.write(set_stock(client.key, 1)))[0].row.version == version + 1
        assert client.unknown <= 2


async def test_restart_that_nobody_noticed(served: Process, private_postgres: PostgresServer) -> None:
    """A pooled connection that died while idle fails neither a read nor a write: nothing was sent to the new server."""
    await private_postgres.restart()
    assert (await served.cache.read(KEYS[0], refresh=True)).state.version == 1
    await private_postgres.restart()
    assert (await served.products.write(set_stock(KEYS[0], 5)))[0].row.version == 2
