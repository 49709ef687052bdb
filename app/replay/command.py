"""One run of `larder replay`, from opened files to the exit status."""

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from app.importer.errors import GivenUp, ImportStopped
from app.importer.interruption import Interruption
from app.importer.report import print_plain
from app.importer.retry import RetryPolicy, Stopping
from app.replay.clients import Clients, Numbered
from app.replay.ids import IdMap
from app.replay.pace import Pace
from app.replay.refusals import RefusalLog
from app.replay.report import Summary, Tally, progress_for
from app.replay.sender import AdjustmentSender
from app.replay.survey import SalesFile, Survey

ALL_ACCEPTED = 0
SOME_REFUSED = 1
COULD_NOT_RUN = 2
INTERRUPTED = 130

FIRST_WAIT_MS = 100
LONGEST_WAIT_MS = 2_000
"""Short, because the customer is waiting; `RetryPolicy` spreads the waits, so that clients do not come back together."""


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What to replay, where, and how."""

    file: Path
    url: str
    refused: Path
    mapping: Mapping[str, str]
    id_map: IdMap
    clients: int
    repeat: int
    rate_per_s: float | None
    timeout_s: float
    run_id: str
    json: bool

    @staticmethod
    def new_run_id() -> str:
        """A run id that no other run has."""
        return secrets.token_hex(8)


class ReplayCommand:
    """One run; `console` takes all but the summary, which goes to stdout."""

    def __init__(self, options: ReplayOptions, console: Console, retry: RetryPolicy) -> None:
        self._options = options
        self._console = console
        self._retry = retry
        self._stopping = Stopping()
        self._interruption = Interruption(self._stopping, self._say_stopping)
        self._tally = Tally()
        self._elapsed_s: float | None = None
        """Set once requests were sent."""

    async def run(self) -> int:
        """Do it; the exit status."""
        file = SalesFile(self._options.file, self._options.mapping, self._options.id_map)
        try:
            await self._replay(file, file.survey())
        except GivenUp:
            # Only ever the consequence of a stop that was asked for: failures come with their own error.
            pass
        except ImportStopped as error:
            self._say(f"larder replay: {error}")
            if self._elapsed_s is not None:
                self._summarize()
                self._say(self._how_to_go_on())
            return COULD_NOT_RUN
        self._summarize()
        if self._interruption.came:
            self._say(f"Interrupted. {self._how_to_go_on()}")
            return INTERRUPTED
        if self._tally.refused:
            self._say(f"The requests that were refused are listed in {self._options.refused}.")
            return SOME_REFUSED
        return ALL_ACCEPTED

    async def _replay(self, file: SalesFile, survey: Survey) -> None:
        options = self._options
        total = survey.requests * options.repeat
        progress = progress_for(self._console, total)
        sender = AdjustmentSender(
            options.url,
            clients=options.clients,
            timeout_s=options.timeout_s,
            retry=self._retry,
            stopping=self._stopping,
            notify=progress.notice,
        )
        started_s = time.monotonic()
        try:
            with RefusalLog(options.refused, options.file, options.run_id) as refusals, self._interruption.handled():
                self._say(self._opening_words(survey, sender.shown_url))
                for notice in survey.notices():
                    self._say(notice)
                clients = Clients(
                    sender,
                    count=min(options.clients, max(1, total)),
                    run_id=options.run_id,
                    pace=Pace(options.rate_per_s, self._stopping),
                    stopping=self._stopping,
                    refusals=refusals,
                    tally=self._tally,
                    progress=progress,
                )
                started_s, self._elapsed_s = time.monotonic(), 0.0
                with progress:
                    await clients.run(self._requests(file))
        except asyncio.CancelledError:
            if not self._interruption.came:
                raise
        finally:
            if self._elapsed_s is not None:
                self._elapsed_s = time.monotonic() - started_s
            await sender.close()

    def _requests(self, file: SalesFile) -> Iterator[Numbered]:
        for repetition in range(1, self._options.repeat + 1):
            for adjustment in file.adjustments():
                yield repetition, adjustment

    def _opening_words(self, survey: Survey, url: str) -> str:
        options = self._options
        columns = ", ".join(f"{field} from {survey.columns.names[at]!r}" for field, at in survey.columns.positions.items())
        times = f", {options.repeat:,} times" if options.repeat > 1 else ""
        rate = f", {options.rate_per_s:g} requests/s" if options.rate_per_s is not None else ""
        return (
            f"Replaying {options.file} into {url}: {survey.rows:,} rows as {survey.requests:,} requests{times}, "
            f"{options.clients} clients{rate}. Columns: {columns}. Run id: {options.run_id}"
        )

    def _summarize(self) -> None:
        options = self._options
        summary = Summary(options.run_id, self._tally, self._elapsed_s or 0.0, options.rate_per_s is not None)
        text = json.dumps(summary.as_json()) if options.json else summary.text()
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def _how_to_go_on(self) -> str:
        return (
            f"To go on, run the same command with --run-id {self._options.run_id}: what was done is answered again and "
            "not done twice, as long as the service remembers it (24 hours)."
        )

    def _say_stopping(self) -> None:
        self._say("Stopping: waiting for the requests under way. Once more to drop them.")

    def _say(self, message: str) -> None:
        print_plain(self._console, message)
