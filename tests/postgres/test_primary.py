"""The address of the primary: several hosts, one deadline over all of them, and what a password costs."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from app.postgres.primary import HOST_SHARE_MS, Primary
from tests.cache.taps import Tap, postgres_proxy
from tests.harness.script import PATIENCE_S


@asynccontextmanager
async def hosts(database_url: str, count: int) -> AsyncIterator[tuple[str, list[Tap]]]:
    """Yield the URL of several addresses of one server, and what passes at each."""
    taps = [Tap() for _ in range(count)]
    proxies = [postgres_proxy(database_url, tap) for tap in taps]
    urls = [await proxy.__aenter__() for proxy in proxies]
    try:
        places = ",".join(f"127.0.0.1:{urlsplit(url).port}" for url in urls)
        parts = conninfo_to_dict(urls[0])
        user, name = parts["user"], parts["dbname"]
        yield f"postgresql://{user}@{places}/{name}?sslmode=disable&target_session_attrs=primary", taps
    finally:
        for proxy in proxies:
            await proxy.__aexit__(None, None, None)


async def _port(primary: Primary, timeout_ms: int) -> int:
    async with await primary.connect(timeout_ms=timeout_ms, autocommit=True) as connection:
        return connection.info.port


async def test_host_that_answered_last_is_first(database_url: str) -> None:
    """A host that hangs costs its share once: the next connection begins with the host that answered."""
    async with hosts(database_url, 3) as (url, taps):
        primary = Primary(url)
        ports = [tap.proxy.port for tap in taps]
        assert await _port(primary, 30_000) == ports[0]
        taps[0].proxy.hold()
        taps[1].proxy.refuse()
        assert await _port(primary, 9_000) == ports[2]
        began = time.monotonic()
        assert await _port(primary, 90_000) == ports[2]  # a third of this deadline would be 30 s
        assert time.monotonic() - began < PATIENCE_S


async def test_one_deadline_holds_for_all_hosts(database_url: str) -> None:
    """Hosts that all hang take the deadline together, and not each; the error names each of them."""
    async with hosts(database_url, 3) as (url, taps):
        for tap in taps:
            tap.proxy.hold()
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError) as raised:
            await Primary(url).connect(timeout_ms=3 * HOST_SHARE_MS)
        taken_s = time.monotonic() - began
        assert taken_s < 3 * 3 * HOST_SHARE_MS / 1000, taken_s  # what three deadlines would take
        for tap in taps:
            assert f"127.0.0.1:{tap.proxy.port} (connection timeout expired)" in str(raised.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://h1,h2/larder", "target_session_attrs=any"),
        ("postgresql://h1,h2/larder?target_session_attrs=prefer-standby", "target_session_attrs=prefer-standby"),
        ("host=h1,h2 target_session_attrs=standby", "target_session_attrs=standby"),
        ("postgresql://h1,h2,h3,h4,h5,h6,h7/larder?target_session_attrs=primary", "deadline for all is 3000 ms"),
    ],
)
def test_hosts_by_which_a_standby_could_be_taken_are_refused(url: str, says: str) -> None:
    """Several hosts need a target that only a primary is, and time for each of them."""
    with pytest.raises(ValueError, match=says):
        Primary(url).check(3_000)


def test_hosts_that_may_be_used() -> None:
    """One host may have any target, and several may be called by name or by address."""
    for url in (
        "postgresql://h1/larder",
        "postgresql://h1:1,h2:2/larder?target_session_attrs=read-write",
        "hostaddr=10.0.0.1,10.0.0.2 port=5433 target_session_attrs=primary",
    ):
        Primary(url).check(3_000)


async def test_standby_is_passed_over(database_url: str) -> None:
    """A host whose sessions cannot write is no primary, though it lets everybody in."""
    async with hosts(database_url, 2) as (url, taps):
        user_only = url.replace("target_session_attrs=primary", "target_session_attrs=read-write")
        assert await _port(Primary(user_only), 30_000) == taps[0].proxy.port
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as hand:
            await hand.execute(f"ALTER DATABASE {hand.info.dbname} SET default_transaction_read_only = on".encode())
        with pytest.raises(psycopg.OperationalError, match="no host is a primary that answers"):
            await Primary(user_only).connect(timeout_ms=30_000)


async def test_time_for_the_password_is_its_own(database_url: str) -> None:
    """A slow command takes nothing from the deadline for connecting; its failure is the connection's."""
    read = 0

    async def slowly() -> str:
        nonlocal read
        read += 1
        await asyncio.sleep(0.6)
        return "word"

    primary = Primary(database_url, slowly)
    for _ in range(2):
        await (await primary.connect(timeout_ms=10_000)).close()
    assert read == 2

    async def fails() -> str:
        raise LookupError("there is none")

    with pytest.raises(psycopg.OperationalError, match="there is none"):
        await Primary(database_url, fails).connect(timeout_ms=10_000)
