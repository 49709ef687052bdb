"""A server that has all its data from the server that the watermark names: its cache stays warm (R5, step 1)."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest
import redis.asyncio

from app.cache.write_through import Status
from app.private_servers import RedisServer, start_redis
from app.private_servers.redis_server import free_ports
from app.products.commands import Put
from tests.cache.rig import SHORT_FENCE, draft, open_process
from tests.cache.test_copied_keys import trusted_again

pytestmark = [pytest.mark.slow, pytest.mark.heavy, pytest.mark.guarantee("R5")]

KEY = "mug"
_WAIT_MS = 20_000


@pytest.fixture
async def pair(servers_directory: Path) -> AsyncIterator[tuple[RedisServer, RedisServer]]:
    """A master and its replica."""
    async with AsyncExitStack() as opened:
        options = {"requirepass": "pw", "masterauth": "pw", "repl-diskless-sync-delay": "0"}
        servers: list[RedisServer] = []
        for _ in range(2):
            if servers:
                options["replicaof"] = f"127.0.0.1 {servers[0].port}"
            directory = servers_directory / f"redis-{uuid4().hex[:8]}"
            servers.append(await start_redis(directory, options=options, ports=free_ports()))
            opened.push_async_callback(servers[-1].stop)
        yield servers[0], servers[1]


async def promote(master: RedisServer, replica: RedisServer) -> RedisServer:
    """Make the replica a master, once it has all that the master has."""
    async with redis.asyncio.Redis.from_url(master.url) as old, redis.asyncio.Redis.from_url(replica.url) as new:
        await old.set("last", "1", px=1_000)
        assert await old.wait(1, _WAIT_MS) == 1
        await new.replicaof("NO", "ONE")
    return replica


async def restart_from_snapshot(master: RedisServer, replica: RedisServer) -> RedisServer:
    """Restart the master with what it has saved."""
    await promote(master, replica)
    async with redis.asyncio.Redis.from_url(master.url) as client:
        await client.save()
    await master.restart(keep_snapshot=True)
    return master


@pytest.mark.parametrize("succeed", [promote, restart_from_snapshot])
async def test_successor_with_all_data(
    pair: tuple[RedisServer, RedisServer],
    database_url: str,
    namespace: str,
    succeed: Callable[[RedisServer, RedisServer], Awaitable[RedisServer]],
) -> None:
    """A replica that was promoted, and a server that loaded its own snapshot, are audited from the watermark they got."""
    async with open_process(pair[0].url, database_url, namespace, config=SHORT_FENCE) as old:
        await trusted_again(old)
        await old.write(Put(draft(KEY)))
        assert (await old.cache.read(KEY)).status is Status.HIT
    successor = await succeed(*pair)
    async with open_process(successor.url, database_url, namespace, config=SHORT_FENCE) as new:
        await trusted_again(new)
        assert (await new.cache.read(KEY)).status is Status.HIT
        assert new.stats.clean_starts == 0
