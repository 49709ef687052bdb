"""One import, from the opened file to the exit status."""

import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from app.importer.batches import read_batches
from app.importer.csv_file import CsvFile
from app.importer.errors import ImportStopped
from app.importer.flow import ImportFlow
from app.importer.plain_text import visible
from app.importer.posting import Poster
from app.importer.report import Progress, RejectedFile, counts_text
from app.importer.retry import RetryPolicy
from app.importer.rows import PriceUnit, read_rows
from app.importer.sender import Outcome
from app.importer.stopping import StopFlag

ALL_ACCEPTED = 0
SOME_REFUSED = 1
COULD_NOT_RUN = 2
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class ImportRun:
    """One import: its file, its target and its options. The last line goes to stdout, everything else to ``console``."""

    file: Path
    url: str
    mapping: Mapping[str, str]
    refused_path: Path
    batch_size: int
    concurrency: int
    timeout_s: float
    retry: RetryPolicy
    console: Console
    price_unit: PriceUnit | None = None
    """The unit of the prices; by default the name of their column has to say that they are in cents."""
    key: str = field(default="", repr=False)
    """The key that the service asks for; empty in open mode."""
    _counts: Counter[Outcome] = field(default_factory=Counter, init=False)
    _stop: StopFlag = field(default_factory=StopFlag, init=False)

    async def run(self) -> int:
        """Import the file and return the exit status.

        After one Ctrl-C, SIGTERM or SIGHUP, batches under way are finished and reported. After two, they are dropped.
        """
        started_s = time.monotonic()
        try:
            with CsvFile(self.file) as file:
                await self._import(file, Progress(self.console, file.size_bytes, self._say))
        except ImportStopped as error:
            self._say(f"larder import: {error}")
            if self._counts.total():
                self._say(self._progress_text())
            return COULD_NOT_RUN
        if self._stop.interrupted:
            self._say(f"Interrupted. {self._progress_text()}")
            return INTERRUPTED
        text = f"Imported {self._counts.total():,} rows in {time.monotonic() - started_s:.1f} s: {counts_text(self._counts)}."
        if self._counts["refused"]:
            text += f" The refused rows are listed in {self.refused_path}."
        sys.stdout.write(visible(text) + "\n")
        sys.stdout.flush()
        return SOME_REFUSED if self._counts["refused"] else ALL_ACCEPTED

    async def _import(self, file: CsvFile, progress: Progress) -> None:
        columns, rows = read_rows(file.lines(), self.mapping, self.price_unit)
        poster = Poster(
            self.url,
            connections=self.concurrency,
            timeout_s=self.timeout_s,
            retry=self.retry,
            stop=self._stop,
            notify=self._say,
            key=self.key,
        )
        async with poster:
            with RejectedFile(self.refused_path, self.file) as rejected, self._stop.set_by_signals(self._say_stopping):
                self._say(f"Importing {self.file} into {poster.shown_url}. {columns.text()}")
                with progress:
                    flow = ImportFlow(poster, self._stop, rejected, self._counts, progress)
                    await flow.run(read_batches(rows, file, batch_size=self.batch_size))

    def _say(self, message: str) -> None:
        # The message may quote the file and the server, which can hold anything. It is printed without markup and escaped, so
        # that neither brackets nor the terminal's own commands are interpreted.
        self.console.print(visible(message), markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _say_stopping(self) -> None:
        self._say("Stopping: waiting for the batches under way. Once more to drop them.")

    def _progress_text(self) -> str:
        text = f"So far {counts_text(self._counts)}; batches without an answer may be stored or not."
        if self._counts["refused"]:
            text += f" The rows refused so far are listed in {self.refused_path}."
        return f"{text} Run the same command again: the products are then the same as without the interruption."
