"""``larder import``: create or replace products from a CSV file, through the HTTP interface of a running Larder."""

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from app.cli.key_option import key_in
from app.importer.retry import RetryPolicy
from app.importer.rows import FIELDS, PRICE_UNITS
from app.importer.run import ImportRun

_DESCRIPTION = """\
Create or replace products from a CSV file, plain or gzip, through the HTTP interface of a running Larder.
The header line names the columns: id, name and price_cents are needed, stock and reorder_point are optional.
It can be interrupted and run again: it ends in the same state."""

_EPILOG = """\
exit status: 0 all rows accepted; 1 some rows refused (they are listed); 2 could not run, or not to the end;
130 interrupted. Example:
  larder import stock.csv.gz --url http://127.0.0.1:8000 --map id=StockCode --map name=Description"""

# option, least, most, default, metavar, meaning
_NUMBERS = (
    ("--batch-size", 1, 1_000, 500, "ROWS", "rows in one request"),
    ("--concurrency", 1, 16, 4, "REQUESTS", "requests under way at once"),
    ("--retries", 0, 20, 8, "TIMES", "how often a request is tried again"),
    ("--timeout-s", 1, 300, 30, "SECONDS", "longest wait for the answer to one request"),
)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
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
        action=_MapAction,
        dest="mapping",
        default={},
        metavar="FIELD=COLUMN",
        help="read FIELD from the column COLUMN; repeat the option for each field that has another name in the file",
    )
    parser.add_argument(
        "--price-unit",
        choices=PRICE_UNITS,
        help="what unit the prices have: cents (1299) or major (12.99); needed if the column's name does not say cents",
    )
    for option, least, most, default, metavar, meaning in _NUMBERS:
        parser.add_argument(
            option,
            type=_whole_number(option, least, most),
            default=default,
            metavar=metavar,
            help=f"{meaning}, {least} to {most:,} (default: %(default)s)",
        )
    parser.add_argument("--key-file", type=key_in, dest="key", metavar="PATH", help="file with a key of scope products:write")
    parser.add_argument(
        "--refused", type=Path, metavar="PATH", help="where to list the refused rows (default: FILE.refused.csv)"
    )


async def run(arguments: argparse.Namespace) -> int:
    """Run the import and return the exit status. Progress and errors go to stderr, the last line to stdout."""
    retry = RetryPolicy(retries=arguments.retries)
    return await import_run(arguments, retry, Console(stderr=True)).run()


def import_run(arguments: argparse.Namespace, retry: RetryPolicy, console: Console) -> ImportRun:
    """Return the import that the arguments describe."""
    return ImportRun(
        file=arguments.file,
        url=arguments.url,
        mapping=arguments.mapping,
        price_unit=arguments.price_unit,
        refused_path=arguments.refused or Path(f"{arguments.file}.refused.csv"),
        batch_size=arguments.batch_size,
        concurrency=arguments.concurrency,
        timeout_s=arguments.timeout_s,
        retry=retry,
        console=console,
        key=arguments.key or "",
    )


def _whole_number(option: str, least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{option} is a whole number from {least} to {most}, not {text!r}")
        return int(text)

    return parse


class _MapAction(argparse.Action):
    """Collects ``--map FIELD=COLUMN`` into a dictionary."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,  # noqa: ARG002  # part of the signature that argparse calls
    ) -> None:
        field, _, column = str(values).partition("=")
        # The dictionary is copied, because all parses share the default.
        mapping = dict(getattr(namespace, self.dest))
        if field not in FIELDS or not column:
            parser.error(f"--map {values}: write FIELD=COLUMN, FIELD one of {', '.join(FIELDS)}")
        if field in mapping:
            parser.error(f"--map names {field} twice")
        mapping[field] = column
        setattr(namespace, self.dest, mapping)
