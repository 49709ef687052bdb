"""What the tests of the command share."""

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest

from tests.cli.larder_process import Larder


@pytest.fixture
def larder(servers_directory: Path) -> Iterator[Larder]:
    """The command, in a directory with room for ``.larder/`` that is removed with the session's servers."""
    directory = servers_directory / f"cli-{uuid4().hex[:8]}"
    directory.mkdir()
    # Its processes inherit this. Under nohup, the signal would be ignored.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield Larder(directory)
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def own_servers(database_url: str, redis_url: str, namespace: str) -> Mapping[str, str]:
    """The settings that lead to a database and a namespace of the test's own."""
    return {"LARDER_DATABASE_URL": database_url, "LARDER_REDIS_URL": redis_url, "LARDER_CACHE_NAMESPACE": namespace}
