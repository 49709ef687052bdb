"""`larder replay`: a shop's sales, as requests to a running Larder."""

import argparse
import math
import re
from pathlib import Path

from rich.console import Console

from app.importer.arguments import MapAction, whole_number_option
from app.importer.retry import RetryPolicy
from app.replay.command import FIRST_WAIT_MS, LONGEST_WAIT_MS, ReplayCommand, ReplayOptions
from app.replay.ids import ID_MAPS
from app.replay.sales import FIELDS

CLIENTS_MAX = 512
REPEAT_MAX = 1_000_000
RETRIES_MAX = 1_000
TIMEOUT_S_MAX = 300
RATE_MAX = 100_000

_RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_DESCRIPTION = """\
Replay a CSV file of sales, plain or gzip, as requests to a running Larder: each invoice is one adjustment of all its
products, each done exactly once, however often it has to be sent. Negative quantities are returns."""

_EPILOG = """\
exit status: 0 all invoices accepted; 1 some refused (they are listed); 2 could not run, or not to the end;
130 interrupted. Example:
  larder catalogue sales.csv.gz products.csv
  larder import products.csv
  larder replay sales.csv.gz --id-map sanitize --clients 32"""


class _MapSales(MapAction):
    fields = tuple(FIELDS)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "replay",
        help="replay a CSV file of sales as requests",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="CSV in UTF-8, plain or gzip")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the Larder runs (default: %(default)s)")
    parser.add_argument(
        "--map",
        action=_MapSales,
        dest="mapping",
        default={},
        metavar="FIELD=COLUMN",
        help=f"read FIELD ({', '.join(FIELDS)}) from the column COLUMN; once for each that is called otherwise",
    )
    parser.add_argument(
        "--id-map",
        choices=tuple(ID_MAPS),
        default="keep",
        help="codes as ids: as they are, or with _ for what an id may not have (default: %(default)s)",
    )
    parser.add_argument("--run-id", type=_run_id, metavar="ID", help="name of this run, to go on with it (default: random)")
    parser.add_argument("--rate", type=_rate, metavar="R", help="requests per second, evenly (default: as fast as it goes)")
    parser.add_argument("--refused", type=Path, metavar="PATH", help="where to list refusals (default: FILE.refused.jsonl)")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    numbers = [
        ("--clients", 1, CLIENTS_MAX, 8, "CLIENTS", "requests under way at once"),
        ("--repeat", 1, REPEAT_MAX, 1, "TIMES", "how often to replay the whole file"),
        ("--retries", 0, RETRIES_MAX, 60, "TIMES", "how often a request is tried again"),
        ("--timeout-s", 1, TIMEOUT_S_MAX, 10, "SECONDS", "longest wait for the answer to one try"),
    ]
    for option, least, most, default, metavar, meaning in numbers:
        parser.add_argument(
            option,
            type=whole_number_option(option, least, most),
            default=default,
            metavar=metavar,
            help=f"{meaning}, {least} to {most:,} (default: %(default)s)",
        )


def _run_id(text: str) -> str:
    if _RUN_ID.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"--run-id is 1 to 64 of A-Z a-z 0-9 . _ -, not {text!r}")
    return text


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate <= RATE_MAX:
        raise argparse.ArgumentTypeError(f"--rate is a number above 0 and up to {RATE_MAX:,}, not {text!r}")
    return rate


async def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit status. Progress and errors go to stderr, the summary to stdout.

    Ctrl-C (or SIGTERM) once: requests under way are finished and counted; twice: they are dropped.
    """
    options = ReplayOptions(
        file=arguments.file,
        url=arguments.url,
        refused=arguments.refused or Path(f"{arguments.file}.refused.jsonl"),
        mapping=arguments.mapping,
        id_map=ID_MAPS[arguments.id_map],
        clients=arguments.clients,
        repeat=arguments.repeat,
        rate_per_s=arguments.rate,
        timeout_s=arguments.timeout_s,
        run_id=arguments.run_id or ReplayOptions.new_run_id(),
        json=arguments.json,
    )
    retry = RetryPolicy(retries=arguments.retries, first_wait_ms=FIRST_WAIT_MS, longest_wait_ms=LONGEST_WAIT_MS)
    return await ReplayCommand(options, Console(stderr=True), retry).run()
