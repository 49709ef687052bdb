"""The kinds of faults, made with a proxy, a signal or SQL. ``KINDS`` lists all of them.

A fault lasts as long as its function runs. Afterwards its server can work again; the caller waits until the cache is trusted
again.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random

import psycopg
import redis.exceptions

from app.cache.slot import FORMAT
from app.settings import namespace_of
from tests.harness.client import NoAnswerError
from tests.harness.cluster import CACHE_NAME, NAMESPACE, Cluster, Instance
from tests.harness.faultlog import FaultLog
from tests.harness.history import ByHand, History, SeenWrite
from tests.harness.proxy import Proxy, Target
from tests.harness.spare import Spare
from tests.harness.workload import Workload

SHORTEST_S, LONGEST_S = 0.3, 2.5
_AWAY_S = (4.0, 6.0)
_HELD_S = (1.0, 2.5)
_HELD = 3
_LEDGER_CLIENTS = 40
_MID_WRITE_S = 1.0


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that a fault may affect."""

    cluster: Cluster
    workload: Workload
    history: History
    log: FaultLog
    chance: Random
    spare: Spare | None = None
    """Needed by the kinds ``redis-other`` and ``two-databases``."""

    def lasting_s(self) -> float:
        """Return how long a fault lasts. Short ones are more likely."""
        return SHORTEST_S + (LONGEST_S - SHORTEST_S) * self.chance.random() ** 2


# ------------------------------------------------------------------- proxies


def _proxied(layer: str, kind: str, do: Callable[[Proxy, Random], None]) -> "Action":
    async def act(scene: Scene, instance: Instance) -> None:
        proxy = instance.redis if layer == "redis" else instance.postgres
        with scene.log.on(f"{layer}-{kind}", layer, instance.number):
            do(proxy, scene.chance)
            await asyncio.sleep(scene.lasting_s())
            await proxy.heal()

    return act


def _breaking(layer: str, kind: str, do: Callable[[Proxy], None]) -> "Action":
    """Return a fault that breaks all connections several times, at random moments."""

    async def act(scene: Scene, instance: Instance) -> None:
        with scene.log.on(f"{layer}-{kind}", layer, instance.number):
            for _ in range(scene.chance.randint(1, 4)):
                do(instance.redis if layer == "redis" else instance.postgres)
                await asyncio.sleep(scene.chance.uniform(0.02, 0.4))

    return act


def _late(proxy: Proxy, chance: Random) -> None:
    # Around Redis's deadline of 100 ms: some commands are in time and their replies are not.
    proxy.delay(chance.choice((0.02, 0.06, 0.15, 0.4)))


async def _postgres_away(scene: Scene, instance: Instance) -> None:
    """Take PostgreSQL from one instance for longer than a fence lives."""
    with scene.log.on("postgres-away", "postgres", instance.number):
        scene.chance.choice((instance.postgres.refuse, instance.postgres.hold))()
        await asyncio.sleep(scene.chance.uniform(*_AWAY_S))
        await instance.postgres.heal()


async def _redis_other(scene: Scene, instance: Instance) -> None:
    """Connect one instance to another Redis, which has the data of the last such fault."""
    if scene.spare is None:
        raise RuntimeError("this fault needs a second Redis")
    proxy = instance.redis
    usual = proxy.target
    with scene.log.on("redis-other", "redis", instance.number):
        for target in (Target(path=scene.spare.redis.socket), usual):
            proxy.target = target
            scene.chance.choice((proxy.cut, proxy.reset))()
            if target is not usual:
                await asyncio.sleep(scene.lasting_s() + scene.chance.uniform(0.0, 2.0))


async def _two_databases(scene: Scene, _: Instance) -> None:
    """Let a service on another database use the same Redis and the same namespace, and read from it."""
    if scene.spare is None:
        raise RuntimeError("this fault needs a stranger")
    stranger = scene.spare.stranger
    with scene.log.on("two-databases", "redis"):
        await stranger.redis.heal()
        end = time.monotonic() + scene.lasting_s() + scene.chance.uniform(0.0, 2.0)
        while time.monotonic() < end:
            await stranger.hits(scene.chance.choice(scene.workload.hot))
            await asyncio.sleep(0.01)
        stranger.redis.refuse()


# ------------------------------------------------------------ Redis as a whole


async def _redis_stop(scene: Scene, _: Instance) -> None:
    with scene.log.on("redis-stop", "redis"):
        scene.cluster.redis.pause()
        await asyncio.sleep(scene.lasting_s())
        scene.cluster.redis.resume()


async def _redis_kill_empty(scene: Scene, _: Instance) -> None:
    with scene.log.on("redis-kill-empty", "redis"):
        await scene.cluster.redis.kill()
        await asyncio.sleep(scene.chance.choice((0.0, 0.0, scene.lasting_s())))
        await scene.cluster.redis.restart()


async def _redis_kill_snapshot(scene: Scene, _: Instance) -> None:
    async with scene.cluster.redis_client() as client:
        try:
            await client.save()
        except redis.exceptions.RedisError:
            return
    await asyncio.sleep(scene.chance.uniform(0.05, 1.5))  # writes go on: the snapshot becomes the past
    with scene.log.on("redis-kill-snapshot", "redis"):
        await scene.cluster.redis.kill()
        await asyncio.sleep(scene.chance.choice((0.0, 0.0, scene.lasting_s())))
        await scene.cluster.redis.restart(keep_snapshot=True)


async def _redis_flush(scene: Scene, _: Instance) -> None:
    with scene.log.on("redis-flushall", "redis"):
        async with scene.cluster.redis_client() as client:
            await client.flushall()


async def _redis_evict(scene: Scene, _instance: Instance) -> None:
    """Delete slots, and sometimes the watermark or the fence, as an eviction would."""
    with scene.log.on("redis-evict", "redis"):
        async with scene.cluster.redis_client() as client:
            for _ in range(scene.chance.randint(5, 30)):
                slots = [f"wtc:{CACHE_NAME}:{key}" for key in scene.chance.sample(scene.workload.hot, 3)]
                odd = scene.chance.choice(("wtc-fence", "wtc-watermark"))
                of = scene.chance.choice((CACHE_NAME, f"{namespace_of(NAMESPACE, 'suppliers')}~{FORMAT}"))
                await client.delete(*slots, *([f"{odd}:{of}"] if scene.chance.random() < 0.1 else []))
                await asyncio.sleep(scene.chance.uniform(0.0, 0.06))


# ------------------------------------------------------------------ processes


async def _until_writing(instance: Instance) -> None:
    end = time.monotonic() + _MID_WRITE_S
    while not instance.writing and time.monotonic() < end:
        await asyncio.sleep(0.001)


async def _service_kill(scene: Scene, instance: Instance) -> None:
    await _until_writing(instance)
    await asyncio.sleep(scene.chance.uniform(0.0, 0.01))
    with scene.log.on("service-kill", "service", instance.number):
        await instance.kill()
        await instance.restart(scene.cluster.database)


async def _service_stop(scene: Scene, instance: Instance) -> None:
    await _until_writing(instance)
    await asyncio.sleep(scene.chance.uniform(0.0, 0.01))
    with scene.log.on("service-stop", "service", instance.number):
        instance.send(signal.SIGSTOP)
        await asyncio.sleep(scene.lasting_s() + scene.chance.choice((0.0, 1.5)))
        instance.send(signal.SIGCONT)


async def _postgres_restart(scene: Scene, _: Instance) -> None:
    with scene.log.on("postgres-restart", "postgres"):
        await scene.cluster.postgres.restart()


async def _postgres_crash(scene: Scene, _: Instance) -> None:
    with scene.log.on("postgres-crash", "postgres"):
        await scene.cluster.postgres.kill()
        await scene.cluster.postgres.restart()


# ------------------------------------------------------------ locks of others


@asynccontextmanager
async def _transaction(scene: Scene) -> AsyncIterator[psycopg.AsyncConnection[psycopg.rows.TupleRow]]:
    """Open a foreign transaction that is rolled back at the end.

    Raises:
        psycopg.Error: a lock was not granted in time, or PostgreSQL is away, perhaps because of another fault.
    """
    async with await scene.cluster.session() as session:
        await session.execute("SET lock_timeout = '2s'")
        await session.execute("BEGIN")
        yield session
        await session.execute("ROLLBACK")


async def _rows_held(scene: Scene, _: Instance) -> None:
    keys = sorted(scene.chance.sample(scene.workload.hot, _HELD))
    with suppress(psycopg.Error):
        async with _transaction(scene) as session:
            with scene.log.on("rows-held", "rows", keys=keys):
                await session.execute("SELECT 1 FROM products WHERE id = ANY(%s) ORDER BY id FOR UPDATE", [keys])
                await asyncio.sleep(scene.chance.uniform(*_HELD_S))


async def _ledger_locked(scene: Scene, instance: Instance) -> None:
    """Lock the ledger as DDL does, while many clients request pages of it."""
    clients: list[asyncio.Task[None]] = []
    with suppress(psycopg.Error):
        async with _transaction(scene) as session:
            with scene.log.on("ledger-locked", "ledger"):
                await session.execute("LOCK TABLE stock_movements IN ACCESS EXCLUSIVE MODE")
                clients = [asyncio.create_task(_ask_ledger(instance)) for _ in range(_LEDGER_CLIENTS)]
                await asyncio.sleep(scene.chance.uniform(*_HELD_S))
    await asyncio.gather(*clients)


async def _ask_ledger(instance: Instance) -> None:
    with suppress(NoAnswerError):
        await instance.endpoint.request("GET", "/stock/movements?reference=x")


async def _suppliers_locked(scene: Scene, _: Instance) -> None:
    """Lock the table of the second namespace as DDL does."""
    with suppress(psycopg.Error):
        async with _transaction(scene) as session:
            with scene.log.on("suppliers-locked", "suppliers"):
                await session.execute("LOCK TABLE suppliers IN ACCESS EXCLUSIVE MODE")
                await asyncio.sleep(scene.chance.uniform(*_HELD_S))


# ---------------------------------------------------------------------- by hand


def _by_hand(kind: str, statement: str, *, deleted: bool) -> "Action":
    async def act(scene: Scene, _instance: Instance) -> None:
        with scene.log.on(kind, "sql"):
            for _ in range(scene.chance.randint(2, 8)):
                key = scene.chance.choice(scene.workload.hot)
                await _change(scene, kind, statement, key, deleted=deleted)
                await asyncio.sleep(scene.chance.uniform(0.0, 0.15))

    return act


async def _change(scene: Scene, kind: str, statement: str, key: str, *, deleted: bool) -> None:
    called = time.monotonic()
    version = None
    mark = scene.workload.next_mark()
    try:
        async with await scene.cluster.session() as session:
            await session.execute("BEGIN")
            await session.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE", [key])
            before = await (await session.execute("SELECT version FROM products WHERE id = %s", [key])).fetchone()
            await session.execute(statement, {"key": key, "mark": mark})
            row = await (
                await session.execute("SELECT version, deleted_at IS NOT NULL FROM products WHERE id = %s", [key])
            ).fetchone()
            if row is None or row == before or (before is not None and row[0] == before[0]):
                return
            version, gone = row
            await session.execute("COMMIT")
    except psycopg.Error as error:
        unknown = SeenWrite(
            key, called, time.monotonic(), version, acknowledged=False, deleted=deleted, kind=kind, answer=str(error)
        )
        scene.history.writes.append(unknown)
        return
    committed = time.monotonic()
    write = SeenWrite(key, called, committed, version, acknowledged=True, deleted=gone, kind=kind)
    scene.history.by_hand.append(ByHand(write, committed))


_UPDATE = "UPDATE products SET stock = CASE WHEN deleted_at IS NULL THEN %(mark)s ELSE 0 END WHERE id = %(key)s"
_DELETE = "DELETE FROM products WHERE id = %(key)s"

Action = Callable[[Scene, Instance], Awaitable[None]]
ALL_REDIS, ALL_POSTGRES, NOTHING = "all of redis", "all of postgres", ""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. Two faults at once never have the same ``claim``, in which ``{}`` is the instance's number."""

    name: str
    act: Action
    claim: str


KINDS = (
    Kind("redis-cut", _breaking("redis", "cut", Proxy.cut), "redis {}"),
    Kind("redis-reset", _breaking("redis", "reset", Proxy.reset), "redis {}"),
    Kind("redis-refuse", _proxied("redis", "refuse", lambda proxy, _: proxy.refuse()), "redis {}"),
    Kind("redis-delay", _proxied("redis", "delay", _late), "redis {}"),
    Kind("redis-hold", _proxied("redis", "hold", lambda proxy, _: proxy.hold()), "redis {}"),
    Kind("redis-swallow", _proxied("redis", "swallow", lambda proxy, _: proxy.swallow()), "redis {}"),
    Kind("redis-other", _redis_other, "redis {}"),
    Kind("two-databases", _two_databases, "stranger"),
    Kind("redis-stop", _redis_stop, ALL_REDIS),
    Kind("redis-kill-empty", _redis_kill_empty, ALL_REDIS),
    Kind("redis-kill-snapshot", _redis_kill_snapshot, ALL_REDIS),
    Kind("redis-flushall", _redis_flush, ALL_REDIS),
    Kind("redis-evict", _redis_evict, ALL_REDIS),
    Kind("postgres-cut", _breaking("postgres", "cut", Proxy.cut), "postgres {}"),
    Kind("postgres-reset", _breaking("postgres", "reset", Proxy.reset), "postgres {}"),
    Kind("postgres-away", _postgres_away, "postgres {}"),
    Kind("postgres-refuse", _proxied("postgres", "refuse", lambda proxy, _: proxy.refuse()), "postgres {}"),
    Kind("postgres-delay", _proxied("postgres", "delay", _late), "postgres {}"),
    Kind("postgres-hold", _proxied("postgres", "hold", lambda proxy, _: proxy.hold()), "postgres {}"),
    Kind("postgres-swallow", _proxied("postgres", "swallow", lambda proxy, _: proxy.swallow()), "postgres {}"),
    Kind("postgres-restart", _postgres_restart, ALL_POSTGRES),
    Kind("postgres-crash", _postgres_crash, ALL_POSTGRES),
    Kind("service-kill", _service_kill, "service {}"),
    Kind("service-stop", _service_stop, "service {}"),
    Kind("rows-held", _rows_held, "rows"),
    Kind("ledger-locked", _ledger_locked, "ledger"),
    Kind("suppliers-locked", _suppliers_locked, "suppliers"),
    Kind("sql-update", _by_hand("sql-update", _UPDATE, deleted=False), "sql"),
    Kind("sql-delete", _by_hand("sql-delete", _DELETE, deleted=True), "sql"),
)
