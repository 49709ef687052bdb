"""Check a service after a replay of holds, from its answers and its ledger alone.

This shares no code with the replay. It expects a catalogue with the openings (id, stock), products that nobody else has
changed, and the list of answers that the replay wrote.

- Each answer has its movements in the ledger, each once, and there are no others: holds, sales, releases, returns. A hold that
  was left to its end, or whose end was told to whoever wanted to commit it, is given back once or still held.
- At each version of a product the movements before it add up to its stock and its held units, and 0 <= held <= stock.
- At the end a product's stock, and what it has reserved, are those sums, through the cache and past it. What is reserved is
  exactly what ended holds keep because nobody needed it; with ``--tidied`` that is nothing.
- Each refusal was right: it tells the stock and the held units of the version that it names, and for at least one product the
  request wants more than was free, even without the holds whose end had come before the request was sent.
- No reservation was committed after its end, and none was given back before it.

Exit status: 0 all agrees; 1 something differs (listed); 2 cannot be checked.
"""

import asyncio
import csv
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from benchmarks.sales.verify import CannotCheck, movements, read_rows, report

_READERS = 8
_IDS_AT_ONCE = 250
_TIMEOUT_S = 60.0
_REASONS = frozenset({"sale", "return", "hold", "release", "expiry"})


class Row(NamedTuple):
    """What matters of a movement."""

    version: int
    delta: int
    stock: int
    reason: str
    reference: str | None
    reserved_delta: int
    reserved: int
    reservation: str | None

    @property
    def deed(self) -> "Deed":
        """What happened, without when."""
        return self.reservation, self.reference, self.reason, self.delta, self.reserved_delta


Deed = tuple[str | None, str | None, str, int, int]
"""Reservation, reference, reason, change of the stock, change of the held units."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the replay wanted for an invoice, and what it was told."""

    name: str
    fate: str
    heard: datetime | None
    lines: Sequence[tuple[str, int]]
    """Products and units, as the file has them."""
    status: int
    answer: Any
    end: Mapping[str, Any] | None


@dataclass
class Books:
    """What must be in the ledger, and what may be there."""

    booked: dict[str, Counter[Deed]] = field(default_factory=lambda: defaultdict(Counter))
    may_expire: dict[str, Counter[Deed]] = field(default_factory=lambda: defaultdict(Counter))
    refused: list[Request] = field(default_factory=list)
    made: dict[str, datetime] = field(default_factory=dict)
    """The reservations, and their ends."""
    faults: list[str] = field(default_factory=list)


def read_requests(sales: Path, answers: Path, repeat: int) -> Iterator[Request]:
    """Read what was asked and told. Raises ``CannotCheck`` unless every row of the file is part of ``repeat`` requests."""
    rows = {line: (invoice, product_id, quantity) for line, invoice, product_id, quantity in read_rows(sales) if quantity}
    covered: Counter[int] = Counter()
    for text in answers.read_text(encoding="utf-8").splitlines():
        entry = json.loads(text)
        numbers = [
            line
            for line in range(entry["first_line"], entry["last_line"] + 1)
            if line in rows and rows[line][0] == entry["invoice"]
        ]
        covered.update(numbers)
        yield Request(
            entry["invoice"],
            entry["fate"],
            None if entry["heard"] is None else datetime.fromisoformat(entry["heard"]),
            [rows[line][1:] for line in numbers],
            entry["first"]["status"],
            entry["first"]["answer"],
            entry["end"],
        )
    if covered != Counter(dict.fromkeys(rows, repeat)):
        raise CannotCheck(f"{answers} does not list every invoice {repeat} times: replay again with the same --run-id first")


def keep_books(requests: Iterable[Request]) -> Books:
    """Say what the ledger must show for these requests."""
    books = Books()
    for request in requests:
        if request.fate == "return":
            _return(request, books)
        elif request.status == 201:
            _hold(request, books)
        elif request.status == 409 and request.answer.get("shortages"):
            books.refused.append(request)
        else:
            books.faults.append(f"the hold of invoice {request.name} was refused with {request.status}, without shortages")
    return books


def _return(request: Request, books: Books) -> None:
    if request.status != 200:
        books.faults.append(f"the return of invoice {request.name} was refused with {request.status}")
        return
    reason = "sale" if any(quantity > 0 for _, quantity in request.lines) else "return"
    for product_id, quantity in request.lines:
        books.booked[product_id][None, request.name, reason, -quantity, 0] += 1


def _hold(request: Request, books: Books) -> None:
    made = request.answer
    reservation, name, ends = made["id"], request.name, datetime.fromisoformat(made["expires_at"])
    if [(line["product_id"], line["quantity"]) for line in made["lines"]] != list(request.lines) or reservation in books.made:
        books.faults.append(f"the hold of invoice {name} has other lines than the file, or the id of another hold")
    books.made[reservation] = ends
    for product_id, quantity in request.lines:
        books.booked[product_id][reservation, name, "hold", 0, quantity] += 1
    told = request.end
    if told is None or told["status"] != 200:
        _ended(request, reservation, told, books)
        return
    # To release what has ended changes nothing.
    over = told["answer"]["status"] == "expired"
    if over != (datetime.fromisoformat(told["answer"]["updated_at"]) >= ends) or (over and request.fate != "release"):
        books.faults.append(f"the {request.fate} of invoice {name} was decided as if its hold had another end")
    for number, (line, (product_id, quantity)) in enumerate(zip(told["answer"]["lines"], request.lines, strict=True)):
        sold, given_back = line["committed"], line["expired" if over else "released"]
        if sold != _wanted(request.fate, number, quantity) or sold + given_back != quantity:
            books.faults.append(f"invoice {name}, line {number}: of {quantity} units {sold} were sold, {given_back} given back")
        if sold:
            books.booked[product_id][reservation, name, "sale", -sold, -sold] += 1
        if given_back:
            books.booked[product_id][reservation, name, "expiry" if over else "release", 0, -given_back] += 1


def _wanted(fate: str, number: int, quantity: int) -> int:
    """Return how many units of a line were to be sold."""
    if fate == "part":
        return 0 if number % 2 else (quantity + 1) // 2
    return quantity if fate == "commit" else 0


def _ended(request: Request, reservation: str, told: Mapping[str, Any] | None, books: Books) -> None:
    """Note a hold that was left to its end: it may be given back, and must be if somebody was told so."""
    where = books.may_expire
    if told is not None:
        where = books.booked
        if not str(told["answer"].get("type", "")).endswith("/reservation-expired"):
            books.faults.append(f"the {request.fate} of invoice {request.name} was refused with {told['status']}")
    for product_id, quantity in request.lines:
        where[product_id][reservation, request.name, "expiry", 0, -quantity] += 1


def judge_ledger(product_id: str, ledger: Sequence[Row], books: Books) -> tuple[list[str], int]:
    """Return what is wrong with a product's movements, oldest first, and the units of ended holds that nobody has needed."""
    wrong: list[str] = []
    stock = reserved = 0
    for number, row in enumerate(ledger):
        stock, reserved = stock + row.delta, reserved + row.reserved_delta
        if number + 1 < len(ledger) and ledger[number + 1].version == row.version:
            continue
        if (row.stock, row.reserved) != (stock, reserved) or not 0 <= reserved <= stock:
            wrong.append(f"{product_id}: version {row.version} has {row.stock}, {row.reserved} held; sums {stock}, {reserved}")
    found = Counter(row.deed for row in ledger if row.reason in _REASONS)
    missing = books.booked[product_id] - found
    extra = found - books.booked[product_id]
    wrong += [f"{product_id}: {_words(deed)}: {times} times missing" for deed, times in missing.items()]
    for deed, times in (extra - books.may_expire[product_id]).items():
        wrong.append(f"{product_id}: {_words(deed)}: booked {times} times too often")
    unneeded = books.may_expire[product_id] - extra
    return wrong, sum(-deed[4] * times for deed, times in unneeded.items())


def _words(deed: Deed) -> str:
    reservation, reference, reason, delta, reserved_delta = deed
    return f"{reason} of invoice {reference}, stock {delta:+}, held {reserved_delta:+}, reservation {reservation}"


def judge_refusal(request: Request, ledgers: Mapping[str, Sequence[Row]], books: Books) -> list[str]:
    """Return what is wrong with a refusal."""
    wrong, could_have_had = [], True
    taken: Counter[str] = Counter()
    for product_id, quantity in request.lines:
        taken[product_id] += quantity
    for shortage in request.answer["shortages"]:
        product_id, version, requested = shortage["product_id"], shortage["version"], taken[shortage["product_id"]]
        before = [row for row in ledgers[product_id] if row.version <= version]
        stock, reserved = (before[-1].stock, before[-1].reserved) if before else (0, 0)
        facts = {"stock": stock, "reserved": reserved, "available": max(0, stock - reserved), "requested": requested}
        if any(shortage[name] != value for name, value in facts.items()):
            wrong.append(f"{product_id}: it tells {shortage}, but the ledger and the file have {facts}")
        if requested <= shortage["available"]:
            wrong.append(f"{product_id}: {requested} were wanted, and {shortage['available']} were available")
        could_have_had = could_have_had and requested <= shortage["available"] + _over(before, request.heard, books)
    if could_have_had:
        wrong.append("holds whose end had come would have left enough")
    return [f"refusal of invoice {request.name}: {reason}" for reason in wrong]


def _over(ledger: Sequence[Row], heard: datetime | None, books: Books) -> int:
    """Return the units that ended holds kept."""
    kept: Counter[str] = Counter()
    for row in ledger:
        if row.reservation is not None:
            kept[row.reservation] += row.reserved_delta
    return sum(units for key, units in kept.items() if heard is not None and key in books.made and books.made[key] <= heard)


async def read_products(client: httpx.AsyncClient, ids: Sequence[str], *, refresh: bool) -> dict[str, tuple[int, int]]:
    """Read stock and reserved units, through the cache or past it."""
    headers = {"Cache-Control": "no-cache"} if refresh else {}
    found: dict[str, tuple[int, int]] = {}
    for start in range(0, len(ids), _IDS_AT_ONCE):
        answer = await client.get("/products", params={"id": ids[start : start + _IDS_AT_ONCE]}, headers=headers)
        found |= {item["id"]: (item["stock"], item["reserved"]) for item in answer.raise_for_status().json()["items"]}
    return found


async def read_ledgers(client: httpx.AsyncClient, ids: Iterable[str]) -> dict[str, list[Row]]:
    """Read every movement of these products, oldest first."""
    waiting, ledgers = iter(ids), dict[str, list[Row]]()

    async def reader() -> None:
        for product_id in waiting:
            newest_first = [
                Row(
                    found["version"], found["delta"], found["stock_after"], found["reason"], found["reference"],
                    found["reserved_delta"], found["reserved_after"], found["reservation_id"],
                )
                async for found in movements(client, product_id)
            ]  # fmt: skip
            ledgers[product_id] = newest_first[::-1]

    async with asyncio.TaskGroup() as readers:
        for _ in range(_READERS):
            readers.create_task(reader())
    return ledgers


async def judge_reservations(client: httpx.AsyncClient, ledgers: Mapping[str, Sequence[Row]], books: Books) -> list[str]:
    """Compare every reservation with the movements that name it, and the end of an expired one with its moment."""
    moved: dict[str, Counter[str]] = defaultdict(Counter)
    for ledger in ledgers.values():
        for row in ledger:
            if row.reservation is not None:
                moved[row.reservation][row.reason] -= row.reserved_delta
    waiting, wrong = iter(books.made.items()), list[str]()

    async def reader() -> None:
        for key, ends in waiting:
            found = (await client.get(f"/reservations/{key}")).raise_for_status().json()
            for name, reason in (("committed", "sale"), ("released", "release"), ("expired", "expiry")):
                if (told := sum(line[name] for line in found["lines"])) != moved[key][reason]:
                    wrong.append(f"reservation {key}: {told} units {name}, but {moved[key][reason]} in the ledger")
            if moved[key]["expiry"] and datetime.fromisoformat(found["updated_at"]) < ends:
                wrong.append(f"reservation {key} was given back before its end")

    async with asyncio.TaskGroup() as readers:
        for _ in range(_READERS):
            readers.create_task(reader())
    return wrong


async def verify(sales: Path, catalogue: Path, answers: Path, url: str, *, repeat: int, tidied: bool) -> int:
    """Compare, and print every difference; the exit status."""
    try:
        with catalogue.open(encoding="utf-8", newline="") as file:
            openings = {row["id"]: int(row["stock"]) for row in csv.DictReader(file)}
        books = keep_books(read_requests(sales, answers, repeat))
        async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, trust_env=False) as client:
            ids = sorted(openings)
            ledgers = await read_ledgers(client, ids)
            seen = [await read_products(client, ids, refresh=refresh) for refresh in (False, True)]
            differences = books.faults + await judge_reservations(client, ledgers, books)
    except (CannotCheck, httpx.HTTPError, OSError, ValueError, LookupError, StopIteration) as error:
        sys.stderr.write(f"Cannot be checked: {str(error) or type(error).__name__}\n")
        return 2
    units = 0
    for product_id, ledger in ledgers.items():
        wrong, unneeded = judge_ledger(product_id, ledger, books)
        stock = openings[product_id] + sum(deed[3] * times for deed, times in books.booked[product_id].items())
        shown = [found.get(product_id) for found in seen]
        if shown != [(stock, unneeded)] * 2:
            wrong.append(
                f"{product_id}: stock and held units {shown} by the cache and the database, expected {stock, unneeded}"
            )
        differences += wrong
        units += unneeded
    if tidied and units:
        differences.append(f"{units:,} units of ended holds are still held")
    for request in books.refused:
        differences += judge_refusal(request, ledgers, books)
    read = sum(map(len, ledgers.values()))
    return report(
        f"{len(openings):,} products, {len(books.made):,} holds, {len(books.refused):,} refusals and {read:,} movements"
        f" compared, {units:,} units are kept by ended holds that nobody needed",
        differences,
    )
