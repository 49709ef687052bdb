"""The nodes of a process: which of them are connected to, and what becomes of calls on a link that is closed."""

import asyncio

import pytest

from app.cache.errors import StoreUnavailable
from app.cache.redis.nodes import RedisNode, RedisNodes
from tests.limits import redis_options


async def test_one_server_that_is_no_cluster(redis_url: str) -> None:
    """It has every slot, so all partitions are there."""
    nodes = RedisNodes(redis_options(redis_url), {0, 8_000, 16_383})
    await nodes.start()
    [node] = nodes.present
    assert {nodes.owner(slot) for slot in (0, 8_000, 16_383)} == {node}
    assert (nodes.up, nodes.failures) == (True, 0)
    await nodes.close()


async def test_nobody_answers() -> None:
    """No node is known, and it is asked again in the background; a failed question changes nothing."""
    nodes = RedisNodes(redis_options("redis://127.0.0.1:1/0", retry_ms=1), {0})
    await nodes.start()
    nodes.look_again()
    assert (nodes.owner(0), nodes.up, list(nodes.all)) == (None, False, [])
    await nodes.close()


@pytest.mark.parametrize("links_up", range(5))
async def test_node_that_leaves_while_it_is_connected_to(redis_url: str, links_up: int) -> None:
    """Whenever it is closed, also before it is connected to, no connection and no attempt is left."""
    before = asyncio.all_tasks()
    node = RedisNode(redis_options(redis_url, retry_ms=1))
    starting = asyncio.create_task(node.start())
    async with asyncio.timeout(10):
        while sum(link.up for link in node.all) < links_up:
            await asyncio.sleep(0)
        await node.close()
        await asyncio.gather(starting, return_exceptions=True)
    await asyncio.gather(node.start(), return_exceptions=True)
    assert asyncio.all_tasks() == before
    assert not any(link.up for link in node.all)


async def test_nobody_asks_after_the_end(redis_url: str) -> None:
    """Closing refuses calls, whose callers then want to ask for the map: no node is connected to any more."""
    before = asyncio.all_tasks()
    nodes = RedisNodes(redis_options(redis_url, retry_ms=1), {0})
    await nodes.start()
    await nodes.close()
    nodes.look_again()
    assert asyncio.all_tasks() == before


async def test_calls_on_a_link_that_is_closed(redis_url: str) -> None:
    """Calls that wait are refused, and so is every later one, at once: nobody may wait for a node that has left."""
    link = redis_options(redis_url).link()
    await link.start()
    calls = [asyncio.create_task(link.call(("TIME",))) for _ in range(5)]
    await asyncio.sleep(0)
    await link.close()
    async with asyncio.timeout(10):
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(one, StoreUnavailable | tuple) for one in found)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="closed"):
                await link.call(("TIME",))
