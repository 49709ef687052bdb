"""`larder catalogue`: the products of a file of sales, for `larder import`."""

import argparse
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path

from rich.console import Console

from app.cli.errors import CommandFailed
from app.importer.arguments import MapAction, whole_number_option
from app.importer.errors import ImportStopped
from app.importer.report import print_plain
from app.importer.rows import NUMBER_MAX
from app.replay.catalogue import FIELDS, Opening, read_catalogue, write_catalogue

_SHARE_MAX = 1_000

_DESCRIPTION = """\
Make the catalogue that a CSV file of sales needs: a row for each product with its last description, the median of its
prices in cents, and an opening stock. Then: larder import OUT"""


class _MapProducts(MapAction):
    fields = tuple(FIELDS)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "catalogue",
        help="make the catalogue that a file of sales needs",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="SALES", help="CSV in UTF-8, plain or gzip")
    parser.add_argument("out", type=Path, metavar="OUT", help="the CSV to write")
    parser.add_argument(
        "--map",
        action=_MapProducts,
        dest="mapping",
        default={},
        metavar="FIELD=COLUMN",
        help=f"read FIELD ({', '.join(FIELDS)}) from the column COLUMN; once for each that is called otherwise",
    )
    opening = parser.add_mutually_exclusive_group()
    opening.add_argument(
        "--stock",
        type=whole_number_option("--stock", 0, NUMBER_MAX),
        default=100_000,
        metavar="UNITS",
        help="opening stock of every product (default: %(default)s)",
    )
    opening.add_argument(
        "--stock-share",
        type=_share,
        metavar="SHARE",
        help="opening stock as this share of what the product sells in the file, rounded down, returns not counted",
    )


def _share(text: str) -> Fraction:
    try:
        share = Decimal(text)
    except InvalidOperation:
        share = Decimal(-1)
    # As written, not as a binary fraction near it: half of 7 is 3, and a tenth of 10 is 1.
    if not share.is_finite() or not 0 <= share <= _SHARE_MAX:
        raise argparse.ArgumentTypeError(f"--stock-share is a number from 0 to {_SHARE_MAX}, such as 0.5, not {text!r}")
    return Fraction(share)


async def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    out: Path = arguments.out
    try:
        if out.exists() and (not out.is_file() or (arguments.file.exists() and out.samefile(arguments.file))):
            raise CommandFailed(f"{out} is the file of sales, or no regular file. Name another one to write to.")
        catalogue = read_catalogue(arguments.file, arguments.mapping)
        opening = Opening(arguments.stock, arguments.stock_share)
        write_catalogue(catalogue, opening, out)
    except ImportStopped as error:
        raise CommandFailed(str(error)) from error
    for notice in catalogue.notices:
        print_plain(Console(stderr=True), notice)
    stock = sum(opening.stock(product.sold) for product in catalogue.products)
    print(f"Wrote {len(catalogue.products):,} products with {stock:,} units to {out}")
    return 0
