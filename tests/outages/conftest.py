"""Fixtures that give each test a cluster of its own, with clients."""

from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest

from tests.harness.workload import Load
from tests.outages.stage import Stage, open_stage


class Stages(Protocol):
    def __call__(self, load: Load) -> AbstractAsyncContextManager[Stage]: ...


@pytest.fixture
def outage_directory(servers_directory: Path) -> Path:
    directory = servers_directory / f"outage-{uuid4().hex[:8]}"
    directory.mkdir()
    return directory


@pytest.fixture
def stage(outage_directory: Path) -> Stages:
    """Return a function that opens a stage with a given load."""
    return partial(open_stage, outage_directory)
