"""A Larder for the replay of sales."""

from collections.abc import AsyncIterator

import pytest

from tests.importer.faulty import Larder, larder_on


@pytest.fixture
async def larder(database_url: str, redis_url: str, namespace: str) -> AsyncIterator[Larder]:
    async with larder_on(database_url, redis_url, namespace) as larder:
        yield larder
