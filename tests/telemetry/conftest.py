"""The service in memory, as the tests of the API have it."""

from tests.api.conftest import client, mug, service

__all__ = ["client", "mug", "service"]
