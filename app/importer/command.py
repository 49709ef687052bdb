"""The command `larder import`: arguments, signals, what is printed, exit status."""

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from app.importer.arguments import MapAction, whole_number_option
from app.importer.chunks import Chunk, SeenIds, read_chunks
from app.importer.errors import GivenUp, ImportStopped
from app.importer.flow import ImportFlow
from app.importer.interruption import Interruption
from app.importer.report import BarProgress, PlainProgress, RefusedList, Tally, print_plain, progress_for
from app.importer.retry import RetryPolicy, Stopping
from app.importer.rows import FIELDS, Columns, read_rows
from app.importer.sender import BatchSender
from app.importer.source import CsvSource

if TYPE_CHECKING:
    # The class has no public name; typeshed's is the only one.
    from argparse import _SubParsersAction

ALL_ACCEPTED = 0
SOME_REFUSED = 1
COULD_NOT_RUN = 2
INTERRUPTED = 130

BATCH_SIZE_MAX = 1_000
CONCURRENCY_MAX = 16
RETRIES_MAX = 20
TIMEOUT_S_MAX = 300

_DESCRIPTION = """\
Create or replace products from a CSV file, plain or gzip, through the HTTP interface of a running Larder.
The header line names the columns: id, name and price_cents are needed, stock and reorder_point are optional.
It can be interrupted and run again: it ends in the same state."""

_EPILOG = """\
exit status: 0 all rows accepted; 1 some rows refused (they are listed); 2 could not run, or not to the end;
130 interrupted. Example:
  larder import stock.csv.gz --url http://127.0.0.1:8000 --map id=StockCode --map name=Description"""


class _MapProducts(MapAction):
    fields = FIELDS


def add_parser(subparsers: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `import` to the parsers of the `larder` command; the parsed arguments are for `run`."""
    parser = subparsers.add_parser(
        "import",
        help="create or replace products from a CSV file",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="CSV in UTF-8, plain or gzip")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the Larder runs (default: %(default)s)")
    parser.add_argument(
        "--map",
        action=_MapProducts,
        dest="mapping",
        default={},
        metavar="FIELD=COLUMN",
        help="read FIELD from the column COLUMN; once for each field that is called otherwise in the file",
    )
    parser.add_argument(
        "--batch-size",
        type=whole_number_option("--batch-size", 1, BATCH_SIZE_MAX),
        default=500,
        metavar="ROWS",
        help=f"rows in one request, 1 to {BATCH_SIZE_MAX} (default: %(default)s)",
    )
    parser.add_argument(
        "--concurrency",
        type=whole_number_option("--concurrency", 1, CONCURRENCY_MAX),
        default=4,
        metavar="REQUESTS",
        help=f"requests under way at once, 1 to {CONCURRENCY_MAX} (default: %(default)s)",
    )
    parser.add_argument(
        "--retries",
        type=whole_number_option("--retries", 0, RETRIES_MAX),
        default=8,
        metavar="TIMES",
        help=f"how often a request is tried again, 0 to {RETRIES_MAX} (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout-s",
        type=whole_number_option("--timeout-s", 1, TIMEOUT_S_MAX),
        default=30,
        metavar="SECONDS",
        help=f"longest wait for the answer to one request, 1 to {TIMEOUT_S_MAX} (default: %(default)s)",
    )
    parser.add_argument(
        "--refused",
        type=Path,
        metavar="PATH",
        help="where to list the refused rows (default: FILE.refused.csv)",
    )


async def run(args: argparse.Namespace) -> int:
    """Import the file that `args` (of `add_parser`) name; the exit status of the command.

    Progress and errors go to stderr, the closing line to stdout. Ctrl-C (or SIGTERM) once: batches under way are
    finished and reported; twice: they are dropped.
    """
    return await ImportCommand(args, Console(stderr=True), RetryPolicy(retries=args.retries)).run()


class ImportCommand:
    """One run of the command, from opened files to the closing words; `console` takes all but the closing line."""

    def __init__(self, args: argparse.Namespace, console: Console, retry: RetryPolicy) -> None:
        self._file: Path = args.file
        self._refused_path: Path = args.refused or Path(f"{args.file}.refused.csv")
        self._mapping: Mapping[str, str] = args.mapping
        self._args = args
        self._console = console
        self._retry = retry
        self._stopping = Stopping()
        self._interruption = Interruption(self._stopping, self._say_stopping)
        self._tally = Tally()
        self._started_s = time.monotonic()

    async def run(self) -> int:
        """Do it; the exit status."""
        try:
            with CsvSource(self._file) as source, SeenIds() as seen:
                columns, rows = read_rows(source.lines(), self._mapping)
                chunks = read_chunks(rows, source, seen, batch_size=self._args.batch_size)
                await self._import(columns, chunks, progress_for(self._console, source.size_bytes))
        except GivenUp:
            # Only ever the consequence of a stop that was asked for: failures come with their own error.
            return self._say_interrupted()
        except ImportStopped as error:
            self._say(f"larder import: {error}")
            if self._tally.total:
                self._say(self._kept())
            return COULD_NOT_RUN
        if self._interruption.came:
            return self._say_interrupted()
        self._say_done()
        return SOME_REFUSED if self._tally.refused else ALL_ACCEPTED

    async def _import(self, columns: Columns, chunks: Iterator[Chunk], progress: BarProgress | PlainProgress) -> None:
        args = self._args
        sender = BatchSender(
            args.url,
            connections=args.concurrency,
            timeout_s=args.timeout_s,
            retry=self._retry,
            stopping=self._stopping,
            notify=progress.notice,
        )
        try:
            with RefusedList(self._refused_path, self._file) as refused, self._interruption.handled():
                self._say(f"Importing {self._file} into {sender.shown_url}. {_columns_text(columns)}")
                flow = ImportFlow(
                    sender,
                    concurrency=args.concurrency,
                    stopping=self._stopping,
                    refused=refused,
                    tally=self._tally,
                    progress=progress,
                )
                with progress:
                    await flow.run(chunks)
        except asyncio.CancelledError:
            if not self._interruption.came:
                raise
        finally:
            await sender.close()

    def _say(self, message: str) -> None:
        print_plain(self._console, message)

    def _say_stopping(self) -> None:
        self._say("Stopping: waiting for the batches under way. Once more to drop them.")

    def _say_interrupted(self) -> int:
        self._say(f"Interrupted. {self._kept()}")
        return INTERRUPTED

    def _kept(self) -> str:
        text = f"So far {self._tally.text()}; batches without an answer may be stored or not."
        if self._tally.refused:
            text += f" The rows refused so far are listed in {self._refused_path}."
        return f"{text} Run the same command again: it ends in the same state as if nothing had happened."

    def _say_done(self) -> None:
        seconds = time.monotonic() - self._started_s
        text = f"Imported {self._tally.total:,} rows in {seconds:.1f} s: {self._tally.text()}."
        if self._tally.refused:
            text += f" The refused rows are listed in {self._refused_path}."
        # A file name need not be text: it must not be what makes a finished import end in an error.
        sys.stdout.write(text.encode(errors="backslashreplace").decode() + "\n")
        sys.stdout.flush()


def _columns_text(columns: Columns) -> str:
    used = ", ".join(
        field if columns.names[position] == field else f"{field} from {columns.names[position]!r}"
        for field, position in columns.positions.items()
    )
    unused = columns.unused()
    return f"Columns read: {used}." + (f" Not read: {', '.join(map(repr, unused))}." if unused else "")
