"""A Redis that cannot be used is named in the log once, with what to do."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import pytest
import redis.asyncio

from app.cache.errors import StoreUnavailable
from app.cache.redis.connection import RedisLink
from app.cache.redis.troubles import Troubles
from tests.limits import redis_options

_KEYS = ["~wtc:*", "~wtc-*"]


Users = Callable[[list[str], str], Awaitable[str]]


@pytest.fixture
async def user(redis_url: str, namespace: str) -> AsyncIterator[Users]:
    """Make a user of the session's Redis with the given rights and the password pw; return its URL with a given one."""
    client = redis.asyncio.Redis.from_url(redis_url)
    parts = urlsplit(redis_url)

    async def make(rules: list[str], password: str) -> str:
        command = ("ACL", "SETUSER", namespace, "reset", "on", ">pw", *rules)
        await client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        netloc = f"{quote(namespace)}:{password}@{parts.netloc.rpartition('@')[2]}"
        return parts._replace(netloc=netloc).geturl()

    yield make
    await client.execute_command("ACL", "DELUSER", namespace)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    await client.aclose()


class _User(NamedTuple):
    rules: list[str]
    password: str


@pytest.mark.parametrize(
    ("given", "reason", "cure"),
    [
        (_User(["+@all", "-@dangerous", *_KEYS], "pw"), "no permissions", "Give its user the commands and keys"),
        (_User(["+@all", "-info", *_KEYS], "pw"), "no permissions", "`larder doctor` names what is missing"),
        (_User(["+@all", "-script|load", *_KEYS], "pw"), "no permissions", "Give its user the commands and keys"),
        (_User(["+@all", *_KEYS], "other"), "invalid username-password", "Correct the user or the password"),
    ],
)
async def test_user_that_cannot_use_it(
    user: Users, caplog: pytest.LogCaptureFixture, given: _User, reason: str, cure: str
) -> None:
    """The reason and the cure are one warning, however often it is tried and by however many links."""
    troubles = Troubles()
    place = redis_options(await user(given.rules, given.password)).place
    links = [
        RedisLink(place, timeout_ms=5_000, connect_timeout_ms=2_000, retry_ms=1, scripts=["return 1"], troubles=troubles)
        for _ in range(2)
    ]
    with caplog.at_level(logging.WARNING, logger="app.cache.redis.troubles"):
        await asyncio.gather(*(link.start() for link in links))  # each waits as long as a connection may take
        for link in links:
            with pytest.raises(StoreUnavailable):
                link.connection()
        await asyncio.sleep(0.05)  # some more tries
    for link in links:
        await link.close()
    await place.aclose()
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert reason in record.message
    assert "reads go to PostgreSQL" in record.message
    assert cure in record.message


def test_reason_is_said_again_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """Ten minutes later it is news again; another reason is news at once."""
    now = [0.0]
    troubles = Troubles(lambda: now[0])
    with caplog.at_level(logging.WARNING, logger="app.cache.redis.troubles"):
        for at, reason in ((0.0, "a"), (1.0, "a"), (2.0, "b"), (599.0, "a"), (601.0, "a")):
            now[0] = at
            troubles.tell(StoreUnavailable(reason))
    assert [record.message[0] for record in caplog.records] == ["a", "b", "a"]
