"""What an operator does with a cluster: ask the doctor, compare and empty the cache."""

import pytest

from app.cache import Status
from app.cache.inspection import SlotReader
from app.cli.audit_store import open_audit_store
from app.cli.environment import check_redis
from app.cli.errors import CommandFailed
from app.doctor.findings import Finding, Verdict, found_by
from app.doctor.redis_checks import RedisChecks
from app.settings import Settings
from tests.cluster.shop import KEYS, PARTITIONS, open_shop, until
from tests.harness.redis_cluster import RedisCluster
from tests.limits import redis_options

pytestmark = [pytest.mark.heavy, pytest.mark.slow]


async def examine(url: str, partitions: int) -> list[Finding]:
    """Return what the doctor finds that does not hold."""
    checks = RedisChecks(redis_options(url), partitions)
    found = [finding async for finding in found_by(checks.all(), 60)]
    await checks.close()
    return [finding for finding in found if finding.verdict is not Verdict.OK]


async def keys_in(slots: SlotReader) -> list[str]:
    """Return the keys of all slots."""
    pages = slots.keys()
    return sorted([key async for keys in pages for key in keys])


async def test_doctor(redis_cluster: RedisCluster, redis_url: str) -> None:
    """A sound cluster has no fault; the setting is compared with what the server is, and a node that hangs is named."""
    assert await examine(redis_cluster.url, PARTITIONS) == []
    assert "Set it to 64" in " ".join(finding.sentence for finding in await examine(redis_cluster.url, 1))
    [advice] = await examine(redis_url, PARTITIONS)
    assert (advice.check, advice.needed) == ("D6", False)
    assert "no cluster" in advice.sentence
    [few] = await examine(redis_cluster.url, 2)
    assert (few.needed, "2 partitions on 3 nodes are few" in few.sentence) == (False, True)


async def test_start_with_one_partition(redis_cluster: RedisCluster) -> None:
    """A service that would read everything from PostgreSQL does not start."""
    settings = Settings.from_env({"LARDER_REDIS_URL": redis_cluster.url})
    with pytest.raises(CommandFailed, match="Set it to 64"):
        await check_redis(settings)
    assert await check_redis(settings.model_copy(update={"cache_partitions": PARTITIONS})) is None


async def test_emptying_and_comparing(redis_cluster: RedisCluster, database_url: str, namespace: str) -> None:
    """Every slot of every node is named and read, each can be deleted, and a clean start makes all of them void."""
    settings = Settings.from_env(
        {
            "LARDER_REDIS_URL": redis_cluster.url,
            "LARDER_CACHE_NAMESPACE": namespace,
            "LARDER_CACHE_PARTITIONS": str(PARTITIONS),
        }
    )
    async with open_shop(redis_cluster.url, database_url, namespace) as shop, open_audit_store(settings) as store:
        await shop.until_hits()
        assert await keys_in(store) == sorted(KEYS)
        assert all(await store.raw(KEYS))
        await store.delete(KEYS[:2])
        assert [raw is None for raw in await store.raw(KEYS[:4])] == [True, True, False, False]
        await store.start_clean()
        assert Status.HIT not in {read.status for read in await shop.both[0].read_many(KEYS)}

        async def trusted() -> bool:
            return await shop.both[0].protocol.proven()

        await until(trusted)
        assert await store.unlink_all() > 0
        assert await keys_in(store) == []
