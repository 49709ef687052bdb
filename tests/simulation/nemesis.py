"""Faults of servers and processes, by chance. ``faults`` has those of single commands."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from tests.fakes.redis import Data, RedisServer
from tests.fakes.rows import SUPPLIERS, Aborted, Row, table_of
from tests.fakes.wire import Disconnected
from tests.simulation.world import World

Deed = Callable[[], Awaitable[None]]


class Nemesis:
    """Causes one fault after another until it is stopped, then lets everything heal."""

    def __init__(self, world: World, keys: tuple[str, ...], deeds: tuple[str, ...], pause_s: float) -> None:
        self._world = world
        self._keys = keys
        self._pause_s = pause_s
        self._deeds: list[tuple[str, Deed]] = [(name, getattr(self, name)) for name in deeds]
        self._under_way: set[asyncio.Task[None]] = set()
        self._contents = 0

    @property
    def _chance(self) -> random.Random:
        return self._world.chance

    async def run(self) -> None:
        """Go on for ever."""
        while self._deeds:
            await asyncio.sleep(self._chance.random() * 2 * self._pause_s)
            name, deed = self._chance.choice(self._deeds)
            self._world.note("NEMESIS", name)
            self._world.history.counts[name] += 1
            task = self._world.spawn(self._do(deed))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def heal(self) -> None:
        """Wait for what is under way, and undo what lasts."""
        while self._under_way:
            await asyncio.wait(self._under_way)
        world = self._world
        for process in world.processes.values():
            for wire in process.wires:
                wire.cut = False
        for server in world.redis:
            server.full = server.loading = False
            if server is not world.master:
                server.demote(world.master.data.copy())
        world.master.down = world.postgres.down = False
        world.postgres.locked.clear()
        world.postgres.untriggered.clear()
        for host in world.routes:
            world.routes[host] = world.master

    async def _do(self, deed: Deed) -> None:
        await deed()

    async def _wait(self, most_s: float) -> None:
        await asyncio.sleep(self._chance.random() * most_s)

    # Redis

    async def evict_slot(self) -> None:
        """One slot is gone."""
        key = self._chance.choice(self._keys)
        self._space(table_of(key)).slots.pop(key, None)

    async def evict_fence(self) -> None:
        """The fence is gone."""
        self._any_space().fence = None

    async def evict_watermark(self) -> None:
        """The watermark is gone."""
        self._any_space().watermark = None

    async def flush(self) -> None:
        """``FLUSHALL``."""
        self._world.master.data = Data()

    async def fill_redis(self) -> None:
        """No memory left for a while."""
        server = self._world.master
        server.full = True
        await self._wait(2)
        server.full = False

    async def stop_redis(self) -> None:
        """Redis is gone for a while, and comes back as it was, empty, or with an old snapshot."""
        server = self._world.master
        if server.down:
            return
        server.down = True
        await self._wait(self._chance.choice((0.01, 3)))
        await self._come_back(server)

    async def restart_redis_from_snapshot(self) -> None:
        """Redis restarts at once, with an old snapshot."""
        server = self._world.master
        if not server.down:
            await self._come_back(server, self._image())

    async def fail_over(self) -> None:
        """The other server becomes the master with the data it has; clients move one by one; the old master lives on."""
        world = self._world
        old = world.master
        new = world.redis[1 - world.redis.index(old)]
        if old.down:
            return
        image = self._image()
        if new.down:
            new.restart(image)
            new.down = False
        else:
            new.data = image
            new.promote()
        world.master = new
        for host in world.routes:
            world.loop.call_later(self._chance.random() * 1.5, self._reroute, host)
        await self._wait(self._chance.choice((0.01, 4)))
        if self._chance.random() < 0.5:
            old.down = True
        elif world.master is not old:
            old.demote(world.master.data.copy())

    async def copy_keys(self) -> None:
        """A tool copies keys one by one from a server that has nothing to do with this one any more."""
        server, image = self._world.master, self._image()
        found = image.watermark
        if found is None or server.down or self._world.master_has(found):
            return
        for what in ("slots", "watermark", "fence"):
            await self._wait(0.2)
            if self._world.master is not server or self._world.master_has(found):
                return
            if what == "slots":
                server.data.slots.update({key: held for key, held in image.slots.items() if self._chance.random() < 0.5})
            elif self._chance.random() < 0.5:
                setattr(server.data, what, getattr(image, what))

    async def cut_redis(self) -> None:
        """One process loses its way to Redis for a while."""
        await self._cut(0)

    # PostgreSQL

    async def cut_postgres(self) -> None:
        """One process loses its way to PostgreSQL for a while."""
        await self._cut(1)

    async def restart_postgres(self) -> None:
        """PostgreSQL restarts."""
        postgres = self._world.postgres
        if postgres.down:
            return
        postgres.restart()
        postgres.down = True
        await self._wait(self._chance.choice((0.01, 2)))
        postgres.down = False

    async def truncate(self) -> None:
        """``TRUNCATE``."""
        self._world.history.counts["truncated"] += self._world.postgres.truncate()

    async def restore(self) -> None:
        """``pg_restore --clean`` of an older dump."""
        images = self._world.postgres_images
        if images:
            self._world.history.counts["restored"] += self._world.postgres.restore(self._chance.choice(images))

    async def promote(self) -> None:
        """A standby that lags takes over."""
        images = self._world.postgres_images
        if images:
            self._world.postgres.promote(images[-1 - int(self._chance.random() ** 3 * len(images))])

    async def write_by_hand(self) -> None:
        """Hand-written SQL in a transaction that may take long, and may be rolled back."""
        postgres = self._world.postgres
        if postgres.down:
            return
        self._contents += 1
        content = None if self._chance.random() < 0.3 else f"by hand {self._contents}"
        transaction = postgres.begin("psql")

        def change(row: Row | None) -> str | None:
            del row
            return content

        try:
            found = postgres.change(transaction, self._chance.choice(self._keys), change)
            if isinstance(found, asyncio.Future):
                async with asyncio.timeout(5):
                    await found
            await self._wait(self._chance.choice((0.01, 0.5, 3)))
            if self._chance.random() < 0.8:
                postgres.commit(transaction)
        except (Disconnected, TimeoutError):
            pass
        except Aborted as error:
            self._world.note("psql", repr(error))
        postgres.roll_back(transaction)

    # The second namespace alone

    async def lock_suppliers(self) -> None:
        """Somebody holds the second table with ACCESS EXCLUSIVE."""
        await self._without(self._world.postgres.locked)

    async def drop_trigger(self) -> None:
        """A trigger of the second table is dropped, and put back later."""
        await self._without(self._world.postgres.untriggered)

    async def claim_suppliers(self) -> None:
        """Somebody has the claim on the audits of the second namespace, and does nothing."""
        for _ in range(self._chance.randint(1, 20)):
            self._space("suppliers").claim = ("nobody", self._world.master.now() + 0.1)
            await asyncio.sleep(0.05)

    async def _without(self, tables: set[str]) -> None:
        tables.add(table_of(SUPPLIERS))
        await self._wait(self._chance.choice((0.1, 3)))
        tables.clear()

    def _space(self, table: str) -> Data:
        return self._world.master.data.of("" if table == "products" else SUPPLIERS)

    def _any_space(self) -> Data:
        if len(self._world.namespaces) == 1:
            return self._world.master.data
        return self._space(self._chance.choice(("products", "suppliers")))

    # Processes

    async def pause_process(self) -> None:
        """SIGSTOP for a while."""
        process = self._chance.choice(list(self._world.processes.values()))
        await process.pause(self._chance.random() * self._chance.choice((0.1, 4)))

    async def kill_process(self) -> None:
        """SIGKILL; another one starts a little later."""
        host = self._chance.choice(list(self._world.processes))
        process = self._world.processes[host]
        if not process.alive:
            return
        process.kill()
        await self._wait(1)
        self._world.start_process(host)

    async def _cut(self, index: int) -> None:
        wire = self._chance.choice(list(self._world.processes.values())).wires[index]
        wire.cut = True
        await self._wait(self._chance.choice((0.3, 3)))
        wire.cut = False

    async def _come_back(self, server: RedisServer, data: Data | None = None) -> None:
        if data is None:
            data = self._chance.choice((server.data, Data(), self._image()))
        server.restart(data)
        server.down = False

    def _image(self) -> Data:
        images = self._world.redis_images
        return images[-1 - int(self._chance.random() ** 2 * len(images))].copy() if images else Data()

    def _reroute(self, host: str) -> None:
        self._world.routes[host] = self._world.master


REDIS_DEEDS = (
    "evict_slot", "evict_fence", "evict_watermark", "flush", "fill_redis", "stop_redis", "restart_redis_from_snapshot",
    "fail_over", "copy_keys", "cut_redis",
)  # fmt: skip
POSTGRES_DEEDS = ("cut_postgres", "restart_postgres", "truncate", "restore", "promote", "write_by_hand")
PROCESS_DEEDS = ("pause_process", "kill_process")
SUPPLIER_DEEDS = ("lock_suppliers", "drop_trigger", "claim_suppliers")
"""What befalls the second namespace alone; they refuse its loads and transactions, as a PostgreSQL in trouble does."""
DEEDS = REDIS_DEEDS + POSTGRES_DEEDS + PROCESS_DEEDS
