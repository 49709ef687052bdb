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
    # Its processes inherit what is ignored: SIGHUP under nohup, SIGINT where a shell runs the tests in the background.
    ignored = [number for number in (signal.SIGHUP, signal.SIGINT) if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield Larder(directory)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture
def own_servers(database_url: str, redis_url: str, namespace: str) -> Mapping[str, str]:
    """The settings that lead to a database and a namespace of the test's own."""
    return {"LARDER_DATABASE_URL": database_url, "LARDER_REDIS_URL": redis_url, "LARDER_CACHE_NAMESPACE": namespace}
