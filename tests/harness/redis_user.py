"""Users of Redis, among them one with the rights that docs/OPERATIONS.md names, and no others."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import redis.asyncio

_DOCS = Path(__file__).parents[2] / "docs" / "OPERATIONS.md"
_SETINFO = (7, 2)
"""The version of Redis that brought ``CLIENT SETINFO``."""


def documented_rules() -> list[str]:
    """Return the rules of Redis's user as docs/OPERATIONS.md names them."""
    found = re.search(r"^ACL SETUSER larder (.*?)```$", _DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1].replace(">secret", "").split()


@asynccontextmanager
async def redis_user(url: str, name: str, rules: Sequence[str]) -> AsyncIterator[str]:
    """Make a user of a server with the given rules; the value is the URL by which it connects. The end removes it.

    As the page says, a right that an older server does not know is left out.
    """
    async with redis.asyncio.Redis.from_url(url) as client:
        version = tuple(map(int, (await client.info("server"))["redis_version"].split(".")))
        rules = [rule for rule in rules if rule != "+client|setinfo" or version >= _SETINFO]
        # fmt: off
        await client.execute_command("ACL", "SETUSER", name, *[rule for rule in rules if rule], ">pw")  # type: ignore[no-untyped-call]
        # fmt: on
        parts = urlsplit(url)
        yield parts._replace(netloc=f"{quote(name)}:pw@{parts.netloc.rpartition('@')[2]}").geturl()
        await client.execute_command("ACL", "DELUSER", name)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
