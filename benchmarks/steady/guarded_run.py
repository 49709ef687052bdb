"""``larder serve`` that tells of its inside: on SIGUSR1 it writes ``GUARDED_REPORT``, a file of JSON.

``tasks``: asyncio's tasks; ``objects``: what the garbage collector knows after a collection. With ``GUARDED_TRACE=1`` (which
takes memory and time itself) also ``grown``: the lines whose memory grew most since the first report.
"""

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
import tracemalloc
from pathlib import Path

import uvloop

from app.cli import serve

_MOST = 15


class _Reporter:
    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._loop = loop
        self._first: tracemalloc.Snapshot | None = None

    def report(self) -> None:
        gc.collect()
        found = {"tasks": len(asyncio.all_tasks(self._loop)), "objects": len(gc.get_objects()), "grown": self._grown()}
        # Renamed into place: whoever waits for the file must not read half of it.
        unfinished = self._path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(found))
        unfinished.rename(self._path)

    def _grown(self) -> list[str]:
        if not tracemalloc.is_tracing():
            return []
        now = tracemalloc.take_snapshot()
        if self._first is None:
            self._first = now
            return []
        return [str(difference) for difference in now.compare_to(self._first, "lineno")[:_MOST]]


async def _serve() -> int:
    loop = asyncio.get_running_loop()
    reporter = _Reporter(Path(os.environ["GUARDED_REPORT"]), loop)
    loop.add_signal_handler(signal.SIGUSR1, reporter.report)
    subparsers = argparse.ArgumentParser().add_subparsers()
    serve.add_parser(subparsers)
    return await serve.run(subparsers.choices["serve"].parse_args([]))


def main() -> int:
    """Serve until SIGTERM."""
    if os.environ.get("GUARDED_TRACE"):
        tracemalloc.start()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve())


if __name__ == "__main__":
    sys.exit(main())
