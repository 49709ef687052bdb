"""The replay of holds against a real Larder that loses answers, and a verification that finds what is wrong."""

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from starlette.responses import Response

from app.importer.retry import RetryPolicy
from benchmarks.sales.holds import Fate, Holds, fate_of, life_s
from benchmarks.sales.invoices import Invoice, by_invoice
from benchmarks.sales.replay import Replay
from benchmarks.sales.runlog import RunLog
from benchmarks.sales.sales import Sale, read_sales
from benchmarks.sales.verify_holds import verify
from tests.importer.faulty import Larder, NoAnswer, larder_on, problem
from tests.products.instances import LATER

STOCKS = {"a": 50, "b_c": 50, "d": 50}


class Shop:
    """A Larder without a tidier, with two products, and the files of one replay."""

    def __init__(self, larder: Larder, folder: Path, database_url: str) -> None:
        self.larder = larder
        self.sales = folder / "sales.csv"
        self.answers = folder / "answers.jsonl"
        self.catalogue = folder / "catalogue.csv"
        self.catalogue.write_text("\n".join(["id,stock", *(f"{key},{stock}" for key, stock in STOCKS.items()), ""]))
        self._database_url = database_url

    async def replay(self, *rows: tuple[str, str, int], clients: int = 1) -> Counter[str]:
        """Replay these sales; the counts."""
        lines = [f"{invoice},{code},X,{quantity},1.0" for invoice, code, quantity in rows]
        self.sales.write_text("\n".join(["invoice,stock_code,description,quantity,unit_price", *lines, ""]))
        # More tries than faults: a busy machine may shed a request besides.
        retry = RetryPolicy(50, first_wait_ms=1, longest_wait_ms=2, longest_retry_after_ms=3)
        invoices = list(by_invoice(read_sales(self.sales)))
        refused = self.sales.with_suffix(".refused")
        with RunLog(self.answers, "run") as answers:
            run = Replay(invoices, self.larder.url, refused, "run", retry, clients=clients, json=True, deed=Holds(answers))
            assert await run.run() in {0, 1}
        return run.counts

    async def verified(self, *, tidied: bool = False) -> int:
        """Verify it; the exit status."""
        return await verify(self.sales, self.catalogue, self.answers, self.larder.url, repeat=1, tidied=tidied)

    async def pass_an_hour(self) -> None:
        """Let every hold end."""
        async with await psycopg.AsyncConnection.connect(self._database_url, autocommit=True) as connection:
            await connection.execute(LATER)


@pytest.fixture
async def shop(tmp_path: Path, database_url: str, redis_url: str, namespace: str) -> AsyncIterator[Shop]:
    async with larder_on(database_url, redis_url, namespace, RESERVATION_TIDY_MS="0") as larder:
        async with httpx.AsyncClient(base_url=larder.url) as client:
            items = [{"id": key, "name": key, "price_cents": 1, "stock": stock} for key, stock in STOCKS.items()]
            await client.post("/products/batch", json={"items": items}, headers={"Idempotency-Key": "opening"})
        yield Shop(larder, tmp_path, database_url)


def invoices_that(fate: Fate) -> list[str]:
    """Numbers of invoices whose holds come to such an end."""
    numbers = (str(number) for number in itertools.count(100))
    lasting = (number for number in numbers if fate_of(one(number)) is fate and life_s(one(number)) >= 3)
    return list(itertools.islice(lasting, 3))


def one(number: str) -> Invoice:
    [invoice] = by_invoice([Sale(2, number, "a", "a", 1, "", Decimal(1))])
    return invoice


async def test_every_hold_is_made_and_ended_once(
    shop: Shop, database_url: str, redis_url: str, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers are lost, holds end while others want their units: all adds up, and one tidying gives the rest back."""
    chance = random.Random(1)
    failures: Counter[str] = Counter()
    struck: list[int] = []

    async def flaky(number: int, body: Any) -> Response | None:  # noqa: ARG001  # a Fault
        key = shop.larder.keys[number - 1]
        if failures[key] >= 4 or chance.random() < 0.6:
            return None
        failures[key] += 1
        return chance.choice([NoAnswer(), problem(503, "", "outcome-unknown"), problem(409, "", "request-in-progress")])

    async def late(number: int, body: Any) -> Response | None:
        key = shop.larder.keys[number - 1]
        # Of an end that was never asked for before, so that it is refused, and not repeated.
        fresh = number > 60 and shop.larder.keys.count(key) == 1
        if fresh and not struck and key.endswith(":end") and fate_of(one(key.split(":")[2])) is Fate.COMMIT:
            struck.append(number)
            await shop.pass_an_hour()
        return await flaky(number, body)

    shop.larder.before, shop.larder.after = late, flaky
    rows = [
        (f"{number}", chance.choice(["a", "b c"]), chance.randint(1, 9)) for number in range(50) for _ in range(1 + number % 3)
    ]
    rows += [(f"C{number}", "a", -number) for number in range(1, 6)]
    rows += [(invoices_that(fate)[0], "d", 5) for fate in (Fate.COMMIT, Fate.LEAVE)]
    counts = await shop.replay(*rows, clients=8)
    assert failures.total() > 40
    assert min(counts[name] for name in ("replays", "refused", "ends_refused", "holds_commit", "holds_leave")) > 0
    assert await shop.verified() == 0, capsys.readouterr().out
    assert await shop.verified(tidied=True) == 1
    assert "units of ended holds are still held" in capsys.readouterr().out
    async with larder_on(database_url, redis_url, namespace, RESERVATION_TIDY_MS="10"):
        while any(row["reserved"] for row in (await shop.larder.products()).values()):
            await asyncio.sleep(0.01)
    assert await shop.verified(tidied=True) == 0, capsys.readouterr().out


async def test_the_verifier_finds_what_is_wrong(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """A check that cannot fail is none: wrong answers, a hold too many, units withheld, an end that came too early."""
    [left, late, _], [sold, refused, _], [part, *_] = map(invoices_that, (Fate.LEAVE, Fate.COMMIT, Fate.PART))
    await shop.replay((left, "a", 30), (part, "a", 5), (refused, "a", 40), (sold, "b c", 7), (late, "b c", 1), ("R", "a", -1))
    assert await shop.verified() == 0, capsys.readouterr().out
    answers = [json.loads(line) for line in shop.answers.read_text().splitlines()]
    by_number = {entry["invoice"]: number for number, entry in enumerate(answers)}

    async def found(invoice: str, change: Callable[[dict[str, Any]], object]) -> str:
        changed = json.loads(json.dumps(answers))
        change(changed[by_number[invoice]])
        shop.answers.write_text("".join(json.dumps(entry) + "\n" for entry in changed))
        assert await shop.verified() == 1
        return capsys.readouterr().out

    told = await found(refused, lambda entry: entry["first"]["answer"]["shortages"][0].update(available=99))
    assert "but the ledger and the file have" in told
    assert "40 were wanted, and 99 were available" in told
    told = await found(refused, lambda entry: entry.update(heard="2100-01-01T00:00:00+00:00"))
    assert f"refusal of invoice {refused}: holds whose end had come would have left enough" in told
    told = await found(sold, lambda entry: entry["end"]["answer"]["lines"][0].update(committed=6))
    assert f"invoice {sold}, line 0: of 7 units 6 were sold, 0 given back" in told
    assert "stock -6, held -6" in told
    told = await found(sold, lambda entry: entry["end"]["answer"].update(updated_at="2100-01-01T00:00:00Z"))
    assert f"the commit of invoice {sold} was decided as if its hold had another end" in told
    told = await found("R", lambda entry: entry["first"].update(status=409))
    assert "return of invoice R, stock +1, held +0" in told
    assert "the return of invoice R was refused with 409" in told
    shop.answers.write_text("".join(json.dumps(entry) + "\n" for entry in answers[1:]))
    assert await shop.verified() == 2
    await shop.pass_an_hour()
    async with httpx.AsyncClient(base_url=shop.larder.url) as client:
        line = {"product_id": "a", "quantity": 40}
        again = {"lines": [line], "expires_in_s": 60, "reference": refused}
        assert (await client.post("/reservations", json=again, headers={"Idempotency-Key": "k"})).status_code == 201
    told = await found(left, lambda entry: entry["first"]["answer"].update(expires_at="2100-01-01T00:00:00Z"))
    assert f"hold of invoice {refused}, stock +0, held +40" in told
    assert "booked 1 times too often" in told
    assert "was given back before its end" in told
