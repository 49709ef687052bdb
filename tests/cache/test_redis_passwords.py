"""Connections to Redis whose password changes, and that are replaced at their age."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis.asyncio

from app.cache.errors import StoreUnavailable
from app.cache.redis.connection import RedisLink
from app.cache.redis.places import Credentials
from app.cache.redis.store import RedisOptions
from app.passwords import Password
from app.private_servers import RedisServer
from tests.harness.script import PATIENCE_S
from tests.limits import redis_options

AGE_S = 1


@pytest.fixture
def password_file(tmp_path: Path, private_redis: RedisServer) -> Path:
    file = tmp_path / "password"
    file.write_text(private_redis.password)
    return file


@pytest.fixture
def options(private_redis: RedisServer, password_file: Path) -> RedisOptions:
    """Options by which the password is in a file, and connections are replaced after a second."""
    url = f"unix://{private_redis.socket}?db=0"
    credentials = Credentials(Password(file=password_file).read)
    return replace(redis_options(url, retry_ms=20), credentials=credentials, max_age_s=AGE_S)


@pytest.fixture
async def link(options: RedisOptions) -> AsyncIterator[RedisLink]:
    link = options.link()
    await link.start()
    yield link
    await link.close()


async def _change(server: RedisServer, password: str) -> None:
    client = redis.asyncio.Redis.from_url(server.url)
    try:
        await client.config_set("requirepass", password)
    finally:
        await client.aclose()


async def _client_id(link: RedisLink) -> int:
    _, [found] = await link.call(("CLIENT", "ID"))
    return int(found)


async def test_connection_is_replaced_without_a_failed_call(link: RedisLink) -> None:
    """Calls go on over the change of connections, and the old one stays for whoever still uses it."""
    first, old = await _client_id(link), link.connection()
    async with asyncio.timeout(PATIENCE_S):
        while await _client_id(link) == first:
            await asyncio.sleep(0.01)
    assert link.failures == 0
    assert await old.call(("CLIENT", "ID")) == [first]


async def test_new_password_is_read_for_the_next_connection(
    link: RedisLink, password_file: Path, private_redis: RedisServer
) -> None:
    """The file's new password lets the next connection in; until it is written, the old connection is kept."""
    first = await _client_id(link)
    await _change(private_redis, "new")
    began = time.monotonic()
    while time.monotonic() < began + 1.5 * AGE_S:
        assert await _client_id(link) == first
        await asyncio.sleep(0.05)
    password_file.write_text("new\n")
    async with asyncio.timeout(PATIENCE_S):
        while await _client_id(link) == first:
            await asyncio.sleep(0.01)
    assert link.failures == 0


async def test_password_that_cannot_be_read_is_the_reason(options: RedisOptions, password_file: Path) -> None:
    """The reason for having no connection is told with each call, and the link comes back with the file."""
    password = password_file.read_text()
    password_file.unlink()
    link = options.link()
    await link.start()
    with pytest.raises(StoreUnavailable, match=r"the file .* cannot be used \(No such file or directory\)"):
        await link.call(("PING",))
    password_file.write_text(password)
    async with asyncio.timeout(PATIENCE_S):
        while not link.up:
            await asyncio.sleep(0.01)
    assert (await link.call(("PING",)))[1] == [b"PONG"]
    await link.close()
