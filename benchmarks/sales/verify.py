"""Check a service after a replay: stock = opening - sold + returned, for every product, to the unit.

This shares no code with the replay, so that a mistake there is not repeated here. It expects a catalogue with the openings
(id, stock), and products that nobody else has changed. What the replay listed as refused is left out of the sum.

With ``--ledger`` every movement is read, too: each line of an accepted invoice must be there once, no more and no less; the
deltas of a product must add up to its stock, never below zero on the way; and each refusal must have been right: ``available``
is the ledger's stock at the version it names, and what the invoice takes of the product exceeds it.

Exit status: 0 all agrees; 1 something differs (listed); 2 cannot be checked.
"""

import asyncio
import csv
import gzip
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

_IDS_AT_ONCE = 250
_PAGE = 250
_READERS = 8
_SHOWN = 20
_TIMEOUT_S = 60.0

_COLUMNS = {
    "invoice": ("invoice", "InvoiceNo"),
    "code": ("stock_code", "StockCode"),
    "quantity": ("quantity", "Quantity"),
}

Booked = Counter[tuple[str, int]]
"""How often a reference was booked with a delta."""


class CannotCheck(Exception):
    """The files or the service do not allow a verdict."""


@dataclass
class Expected:
    """What the service should have, according to the files."""

    stock: dict[str, int]
    booked: dict[str, Booked] = field(default_factory=lambda: defaultdict(Counter))
    refusals: list[dict[str, Any]] = field(default_factory=list)
    net_taken: list[Counter[str]] = field(default_factory=list)
    """What each refused request takes of each product, beside `refusals`."""


def read_rows(sales: Path) -> Iterator[tuple[int, str, str, int]]:
    """Read the file's rows: line, invoice, product and quantity."""
    opener = gzip.open if sales.read_bytes()[:2] == b"\x1f\x8b" else open
    with opener(sales, "rt", encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        names = {key: next(name for name in names if name in (reader.fieldnames or ())) for key, names in _COLUMNS.items()}
        line = reader.line_num + 1
        for row in reader:
            product_id = re.sub(r"[^A-Za-z0-9._:-]", "_", row[names["code"]])
            yield line, row[names["invoice"]], product_id, int(row[names["quantity"]])
            line = reader.line_num + 1


def expect(sales: Path, catalogue: Path, refused: Path, repeat: int) -> Expected:
    """Add up the sales that were accepted."""
    with catalogue.open(encoding="utf-8", newline="") as file:
        expected = Expected({row["id"]: int(row["stock"]) for row in csv.DictReader(file)})
    if refused.exists():
        expected.refusals = [json.loads(line) for line in refused.read_text(encoding="utf-8").splitlines()]
    if any(entry["outcome"] != "refused" for entry in expected.refusals):
        raise CannotCheck(f"{refused} lists requests whose fate is unknown: replay again with the same --run-id first")
    expected.net_taken = [Counter() for _ in expected.refusals]
    by_invoice: dict[str, list[int]] = defaultdict(list)
    for number, entry in enumerate(expected.refusals):
        by_invoice[entry["invoice"]].append(number)
    for line, invoice, product_id, quantity in read_rows(sales):
        times = repeat
        for number in by_invoice.get(invoice, ()):
            if expected.refusals[number]["first_line"] <= line <= expected.refusals[number]["last_line"]:
                times -= 1
                expected.net_taken[number][product_id] += quantity
        expected.stock[product_id] = expected.stock.get(product_id, 0) - times * quantity
        if times and quantity:
            expected.booked[product_id][invoice, -quantity] += times
    return expected


async def read_stocks(client: httpx.AsyncClient, ids: Sequence[str], headers: Mapping[str, str]) -> dict[str, int]:
    """The stocks as the service gives them; what is missing is left out."""
    stocks: dict[str, int] = {}
    for start in range(0, len(ids), _IDS_AT_ONCE):
        answer = await client.get("/products", params={"id": ids[start : start + _IDS_AT_ONCE]}, headers=headers)
        stocks |= {item["id"]: item["stock"] for item in answer.raise_for_status().json()["items"]}
    return stocks


async def movements(client: httpx.AsyncClient, product_id: str) -> AsyncIterator[dict[str, Any]]:
    """A product's ledger, newest first."""
    params: dict[str, str | int] = {"limit": _PAGE}
    while True:
        page = (await client.get(f"/products/{product_id}/stock/movements", params=params)).raise_for_status().json()
        for movement in page["items"]:
            yield movement
        if page["next"] is None:
            return
        params["after"] = page["next"]


async def check_stocks(client: httpx.AsyncClient, expected: Expected) -> list[str]:
    """Differences between the files and the service, through its cache and past it."""
    ids = sorted(expected.stock)
    differences: list[str] = []
    for way, headers in (("through the cache", {}), ("from the database", {"Cache-Control": "no-cache"})):
        stocks = await read_stocks(client, ids, headers)
        differences += [
            f"{product_id}: stock {stocks.get(product_id, 'missing')} {way}, expected {expected.stock[product_id]}"
            for product_id in ids
            if stocks.get(product_id) != expected.stock[product_id]
        ]
    return differences


async def check_ledger(client: httpx.AsyncClient, expected: Expected) -> tuple[int, list[str]]:
    """The number of movements read, and what is wrong with them or with a refusal."""
    shortages: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    differences: list[str] = []
    for number, entry in enumerate(expected.refusals):
        listed = entry["problem"].get("shortages", []) if isinstance(entry["problem"], dict) else []
        if not listed:
            differences.append(f"invoice {entry['invoice']}: refused with {entry['status']}, without shortages")
        for shortage in listed:
            shortages[shortage["product_id"]].append((number, shortage))
    waiting = iter(sorted(expected.stock))
    read = 0

    async def reader() -> None:
        nonlocal read
        for product_id in waiting:
            ledger = [movement async for movement in movements(client, product_id)]
            read += len(ledger)
            differences.extend(judge_ledger(product_id, ledger, expected))
            for number, shortage in shortages.get(product_id, ()):
                differences.extend(judge_refusal(product_id, ledger, shortage, expected, number))

    async with asyncio.TaskGroup() as readers:
        for _ in range(_READERS):
            readers.create_task(reader())
    return read, differences


def judge_ledger(product_id: str, ledger: Sequence[dict[str, Any]], expected: Expected) -> list[str]:
    """What is wrong with one product's movements."""
    wrong: list[str] = []
    total = sum(movement["delta"] for movement in ledger)
    if total != expected.stock[product_id]:
        wrong.append(f"{product_id}: the ledger adds up to {total}, expected {expected.stock[product_id]}")
    if any(movement["stock_after"] < 0 for movement in ledger):
        wrong.append(f"{product_id}: the ledger goes below zero")
    booked: Booked = Counter((m["reference"], m["delta"]) for m in ledger if m["reason"] in {"sale", "return"})
    for (reference, delta), times in (booked - expected.booked[product_id]).items():
        wrong.append(f"{product_id}: invoice {reference}, delta {delta}: booked {times} times too often")
    for (reference, delta), times in (expected.booked[product_id] - booked).items():
        wrong.append(f"{product_id}: invoice {reference}, delta {delta}: {times} times missing from the ledger")
    return wrong


def judge_refusal(
    product_id: str, ledger: Sequence[dict[str, Any]], shortage: dict[str, Any], expected: Expected, number: int
) -> list[str]:
    """What is wrong with the shortage that a refusal gave as its reason."""
    entry, taken = expected.refusals[number], expected.net_taken[number][product_id]
    at_version = next((m["stock_after"] for m in ledger if m["version"] <= shortage["version"]), None)
    wrong = []
    if shortage["available"] != at_version:
        wrong.append(f"available {shortage['available']}, but the ledger has {at_version} at version {shortage['version']}")
    if shortage["requested"] != taken:
        wrong.append(f"requested {shortage['requested']}, but the invoice takes {taken}")
    if taken <= shortage["available"]:
        wrong.append(f"the invoice takes {taken}, and {shortage['available']} were available")
    return [f"{product_id}: refusal of invoice {entry['invoice']}: {reason}" for reason in wrong]


async def verify(sales: Path, catalogue: Path, refused: Path, url: str, *, repeat: int, ledger: bool) -> int:
    """Compare, and print every difference; the exit status."""
    try:
        expected = expect(sales, catalogue, refused, repeat)
        async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, trust_env=False) as client:
            differences = await check_stocks(client, expected)
            text = f"{len(expected.stock):,} stocks compared, {len(expected.refusals):,} refused requests left out"
            if ledger:
                read, wrong = await check_ledger(client, expected)
                differences += wrong
                text += f", {read:,} movements read"
    except (CannotCheck, httpx.HTTPError, OSError, ValueError, LookupError, StopIteration) as error:
        sys.stderr.write(f"Cannot be checked: {str(error) or type(error).__name__}\n")
        return 2
    return report(text, differences)


def report(text: str, differences: Sequence[str]) -> int:
    """Print what was compared, and the first differences; the exit status."""
    for difference in differences[:_SHOWN]:
        sys.stdout.write(difference + "\n")
    sys.stdout.write(f"{text}: {f'{len(differences):,} differences' if differences else 'all agree'}\n")
    return 1 if differences else 0
