"""``python -m benchmarks.sales``: the catalogue that sales need, their replay, and its verification, as commands."""

import argparse
import asyncio
import secrets
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from app.importer.errors import ImportStopped
from app.importer.retry import RetryPolicy
from benchmarks.sales.adjustments import Adjustments
from benchmarks.sales.catalogue import Opening, products_of, write_catalogue
from benchmarks.sales.holds import Holds
from benchmarks.sales.invoices import by_invoice
from benchmarks.sales.replay import COULD_NOT_RUN, Replay
from benchmarks.sales.runlog import RunLog
from benchmarks.sales.sales import collisions, read_sales
from benchmarks.sales.session import Deed
from benchmarks.sales.verify import verify
from benchmarks.sales.verify_holds import verify as verify_holds


def main(words: Sequence[str] | None = None) -> int:
    """Run one of the commands; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sales", description="A shop's sales as requests.")
    commands = parser.add_subparsers(dest="command", required=True)
    _catalogue_parser(commands.add_parser("catalogue", help="make the CSV of products that a file of sales needs"))
    _replay_parser(commands.add_parser("replay", help="send each invoice of a file of sales to a running Larder"))
    _verify_parser(commands.add_parser("verify", help="compare a replay's files with the service, to the unit"))
    given = parser.parse_args(words)
    try:
        if given.command == "catalogue":
            return _catalogue(given)
        return asyncio.run(_replay(given) if given.command == "replay" else _verify(given))
    except ImportStopped as error:
        print(f"{given.command}: {error}", file=sys.stderr)
        return COULD_NOT_RUN


def _catalogue_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sales", type=Path, help="CSV in UTF-8, plain or gzip")
    parser.add_argument("out", type=Path, help="the CSV to write, for larder import")
    opening = parser.add_mutually_exclusive_group()
    opening.add_argument("--stock", type=int, default=100_000, help="opening stock of every product (default: %(default)s)")
    opening.add_argument(
        "--stock-share", type=Fraction, help="opening stock as this share of what the product sells, such as 0.5"
    )


def _catalogue(given: argparse.Namespace) -> int:
    sales = read_sales(given.sales)
    products = products_of(sales)
    if given.out.exists() and given.out.samefile(given.sales):
        raise ImportStopped(f"{given.out} is the file of sales. Name another one to write to.")
    units = write_catalogue(products, Opening(given.stock, given.stock_share), given.out)
    for product_id, codes in collisions(sales).items():
        print(f"Codes that became one product: {product_id} from {', '.join(map(repr, codes))}", file=sys.stderr)
    print(f"Wrote {len(products):,} products with {units:,} units to {given.out}")
    return 0


def _replay_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sales", type=Path, help="CSV in UTF-8, plain or gzip")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the Larder runs (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="requests under way at once (default: %(default)s)")
    parser.add_argument("--rate", type=float, help="requests per second, evenly (default: as fast as it goes)")
    parser.add_argument("--repeat", type=int, default=1, help="how often to replay the whole file (default: %(default)s)")
    parser.add_argument("--retries", type=int, default=60, help="how often a request is tried again (default: %(default)s)")
    parser.add_argument("--timeout-s", type=float, default=10, help="longest wait for one answer (default: %(default)s)")
    parser.add_argument("--run-id", default=secrets.token_hex(8), help="name of this run, to go on with it (default: random)")
    parser.add_argument("--refused", type=Path, help="where to list refusals (default: SALES.refused.jsonl)")
    parser.add_argument("--holds", action="store_true", help="hold what an invoice sells, and then commit, release or leave it")
    parser.add_argument("--answers", type=Path, help="where to list the answers to holds (default: SALES.answers.jsonl)")
    parser.add_argument("--pause-s", type=float, default=0.4, help="longest wait before a commit (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")


async def _replay(given: argparse.Namespace) -> int:
    if not given.holds:
        return await _replay_by(Adjustments(), given)
    with RunLog(_answers(given), given.run_id) as answers:
        return await _replay_by(Holds(answers, pause_s=given.pause_s), given)


async def _replay_by(deed: Deed, given: argparse.Namespace) -> int:
    sales = read_sales(given.sales)
    invoices = list(by_invoice(sales))
    further, zeros = sum(invoice.part > 1 for invoice in invoices), sum(sale.quantity == 0 for sale in sales)
    print(
        f"{len(sales):,} rows as {len(invoices):,} requests, {further:,} of them further parts of an invoice; "
        f"{zeros:,} rows of quantity 0 left out; {len(collisions(sales)):,} ids of several codes; run id {given.run_id}",
        file=sys.stderr,
    )
    return await Replay(
        invoices,
        given.url,
        _refused(given),
        given.run_id,
        # Short waits, since a customer is waiting.
        RetryPolicy(retries=given.retries, first_wait_ms=100, longest_wait_ms=2_000),
        clients=given.clients,
        repeat=given.repeat,
        rate_per_s=given.rate,
        timeout_s=given.timeout_s,
        json=given.json,
        deed=deed,
    ).run()


def _verify_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sales", type=Path, help="the file that was replayed")
    parser.add_argument("catalogue", type=Path, help="the catalogue that was imported before")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the Larder runs (default: %(default)s)")
    parser.add_argument("--refused", type=Path, help="the replay's list of refusals (default: SALES.refused.jsonl)")
    parser.add_argument("--repeat", type=int, default=1, help="how often the file was replayed")
    parser.add_argument("--ledger", action="store_true", help="read every movement, too")
    parser.add_argument("--holds", action="store_true", help="after a replay with --holds; reads every movement")
    parser.add_argument("--answers", type=Path, help="the replay's list of answers (default: SALES.answers.jsonl)")
    parser.add_argument("--tidied", action="store_true", help="with --holds: nothing may be held any more")


async def _verify(given: argparse.Namespace) -> int:
    if given.holds:
        answers = _answers(given)
        return await verify_holds(given.sales, given.catalogue, answers, given.url, repeat=given.repeat, tidied=given.tidied)
    return await verify(given.sales, given.catalogue, _refused(given), given.url, repeat=given.repeat, ledger=given.ledger)


def _refused(given: argparse.Namespace) -> Path:
    return given.refused or Path(f"{given.sales}.refused.jsonl")


def _answers(given: argparse.Namespace) -> Path:
    return given.answers or Path(f"{given.sales}.answers.jsonl")


if __name__ == "__main__":
    sys.exit(main())
