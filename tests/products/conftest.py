from collections.abc import AsyncIterator

import pytest

from app.settings import Settings
from tests.products.instances import Instance, instance


@pytest.fixture
def settings(database_url: str, redis_url: str, namespace: str) -> Settings:
    """The settings of a fleet of its own. Locks are waited for briefly, so that scenarios with a held row are short."""
    given = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "CACHE_NAMESPACE": namespace}
    given |= {"DATABASE_LOCK_TIMEOUT_MS": "300", "TRANSACTION_ATTEMPTS": "2"}
    return Settings.from_env({f"LARDER_{name}": value for name, value in given.items()})


@pytest.fixture
async def larder(settings: Settings) -> AsyncIterator[Instance]:
    async with instance(settings) as running:
        yield running


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[Instance]:
    """A second instance on the same servers, as another process would be."""
    async with instance(settings) as running:
        yield running
