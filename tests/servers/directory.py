"""Where a test session keeps its servers' files, and what it does about a session that was killed."""

import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from app.private_servers import PrivateServerError, ServerDirectory
from app.private_servers.process import end_orphan, orphan

_PATIENCE_S = 5.0


@asynccontextmanager
async def session_directory() -> AsyncIterator[Path]:
    """A locked directory of this session's own; those of dead sessions are removed, their servers stopped."""
    base = Path(tempfile.gettempdir()) / f"larder-tests-{os.getuid()}"
    base.mkdir(mode=0o711, exist_ok=True)
    for left_over in base.iterdir():
        await _reclaim(left_over)
    with ServerDirectory(base / uuid4().hex[:12]) as own:
        yield own.path
        shutil.rmtree(own.path, ignore_errors=True)


async def _reclaim(directory: Path) -> None:
    try:
        locked = ServerDirectory(directory)
    except PrivateServerError:
        return
    with locked:
        for pid_file in (*directory.rglob("postmaster.pid"), *directory.rglob("redis.pid")):
            if (process := orphan(pid_file, pid_file.parent)) is not None:
                await end_orphan(process, signal.SIGINT, patience_s=_PATIENCE_S)
        shutil.rmtree(directory, ignore_errors=True)
