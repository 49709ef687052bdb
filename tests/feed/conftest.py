"""A database with the feed for each test."""

from collections.abc import AsyncIterator

import pytest

from tests.feed.rig import Base, open_base


@pytest.fixture
async def base(database_url: str) -> AsyncIterator[Base]:
    async with open_base(database_url) as base:
        yield base
