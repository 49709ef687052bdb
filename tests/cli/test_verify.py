"""``larder verify`` and ``larder purge`` on real servers."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest
import redis.asyncio

from app.cache.redis.store import Names
from app.cli import main, parse
from app.main import products_of, running
from app.products.commands import Upsert
from app.products.product import Draft
from app.settings import Settings
from tests.harness.script import PATIENCE_S

IDS = [f"mug-{number}" for number in range(12)]


async def larder(*arguments: str) -> int:
    """Run a command in this process; its exit status."""
    command, parsed = parse(arguments)
    return await command.run(parsed)


@pytest.fixture
def settings(environment: pytest.MonkeyPatch, own_servers: Mapping[str, str]) -> Settings:
    """The settings of a fleet of its own; the commands read the same from the environment."""
    fast = {"LARDER_AUDIT_INTERVAL_MS": "100", "LARDER_FENCE_TTL_MS": "1000", "LARDER_FENCE_TTL_MAX_MS": "1000"}
    for name, value in {**own_servers, **fast}.items():
        environment.setenv(name, value)
    return Settings.from_env()


@pytest.fixture
async def raw(settings: Settings) -> AsyncIterator[redis.asyncio.Redis]:
    """A client that knows nothing of the protocol, beside a cache that holds every product."""
    async with running(settings) as service:
        await service.products.write(Upsert([Draft(product_id, "Mug", 100, 5) for product_id in IDS]))
        await service.products.get_many(IDS)
    client = redis.asyncio.Redis.from_url(settings.redis_url)
    yield client
    await client.aclose()


@pytest.mark.usefixtures("raw")
async def test_a_cache_that_is_right_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """Every slot is compared, and none is called wrong."""
    assert await larder("verify") == 0
    assert f"{len(IDS)} slots compared, 0 wrong." in capsys.readouterr().out


async def test_wrong_slots_are_listed_and_repaired(
    settings: Settings, raw: redis.asyncio.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    """An older version, another payload, another key and another epoch are each named; --repair empties just these."""
    slots = [Names(products_of(settings).cache_name).prefix + product_id for product_id in IDS]
    older, different, _, epoch = [bytes(found) for found in await raw.mget(slots[:4]) if isinstance(found, bytes)]
    await raw.set(slots[0], older[:17] + b"%019d" % 0 + older[36:], px=60_000)
    await raw.set(slots[1], different.replace(b'"stock":5', b'"stock":6'), px=60_000)
    await raw.set(slots[2], older, px=60_000)
    await raw.set(slots[3], b"V" + b"0" * 16 + epoch[17:], px=60_000)

    assert await larder("verify") == 1
    said = capsys.readouterr().out
    assert f"{IDS[0]}: older than its row (slot 0, row 1)" in said
    assert f"{IDS[1]}: differs from its row at the same version" in said
    assert f"{IDS[2]}: holds another key" in said
    assert f"{IDS[3]}: of another epoch" in said
    assert f"{len(IDS)} slots compared, 4 wrong." in said

    assert await larder("verify", "--repair") == 1
    assert [await raw.exists(slot) for slot in slots[:4]] == [0, 0, 0, 0]
    assert await larder("verify") == 0
    assert f"{len(IDS) - 4} slots compared, 0 wrong." in capsys.readouterr().out


@pytest.mark.guarantee("R6")
@pytest.mark.parametrize("memory", [False, True])
async def test_purge_leaves_nothing_that_anybody_trusts(
    settings: Settings, raw: redis.asyncio.Redis, capsys: pytest.CaptureFixture[str], *, memory: bool
) -> None:
    """Fence and watermark are gone, and the slots with --memory; the next service starts clean and serves hits again."""
    names = Names(products_of(settings).cache_name)
    assert await larder("purge", *(["--memory"] if memory else [])) == 0
    said = capsys.readouterr().out
    assert "starts the cache clean." in said
    assert (f"{len(IDS)} slots deleted." in said) == memory
    left = [key async for key in raw.scan_iter(match=f"{names.prefix}*")]
    assert len(left) == (0 if memory else len(IDS))
    assert await raw.exists(names.fence, names.watermark) == 0
    async with running(settings) as service:
        assert {read.status for read in await service.products.get_many(IDS)}.isdisjoint({"hit"})
        async with asyncio.timeout(PATIENCE_S):
            while {read.status for read in await service.products.get_many(IDS)} != {"hit"}:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize(("command", "status"), [("verify", 2), ("purge", 1)])
def test_without_redis_it_says_so(
    environment: pytest.MonkeyPatch,
    own_servers: Mapping[str, str],
    capsys: pytest.CaptureFixture[str],
    command: str,
    status: int,
) -> None:
    """An unreachable Redis ends the command with a sentence, not with a traceback or a clean bill."""
    for name, value in {**own_servers, "LARDER_REDIS_URL": "redis://127.0.0.1:1/0"}.items():
        environment.setenv(name, value)
    assert main([command]) == status
    assert "Redis at 127.0.0.1:1 does not answer" in capsys.readouterr().err
