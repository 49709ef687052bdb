"""What the tests of the command share."""

from pathlib import Path
from uuid import uuid4

import pytest


@pytest.fixture
def place(servers_directory: Path) -> Path:
    """A working directory with room for `.larder/`, swept up with the session's servers."""
    path = servers_directory / f"cli-{uuid4().hex[:8]}"
    path.mkdir()
    return path
