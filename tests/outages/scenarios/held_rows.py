"""A foreign transaction holds 20 of 400 rows, while sales go on as an open loop, mostly of the other products.

Sales of free products must not be delayed. Sales of held ones are answered ``overloaded``, which means that nothing was
changed, or succeed after the release. The ledger shows whether the answers were correct: each sale has its own reference.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.harness.client import NoAnswerError
from tests.harness.cluster import Cluster, Instance, larder_as_it_comes, start_cluster
from tests.outages.scenarios.report import Report, entries_in_ledger, percentile, share

_PRODUCTS, _HELD = 400, 20
_FREE_PER_S, _HELD_PER_S = 100, 10
_SUCCESS_PERCENT = 99.9
_P99_S = 0.5
_ANSWER_S = 30.0
_RELEASED_AFTER = 0.8
"""A share of the time under load."""


@dataclass(frozen=True, slots=True)
class _Sale:
    reference: str
    held: bool
    seconds: float
    answer: str


async def run(directory: Path, seconds: float, report: Report) -> None:
    """Run the scenario."""
    async with start_cluster(directory, instances=1, program=larder_as_it_comes) as cluster:
        await _fill(cluster)
        await cluster.until_trusted()
        async with await cluster.session() as session:
            await session.execute("BEGIN")
            await session.execute("SELECT 1 FROM products WHERE id = ANY(%s) FOR UPDATE", [_names(held=True)])
            began = time.monotonic()
            selling = asyncio.create_task(_sell(cluster.instances[0], began, seconds))
            await asyncio.sleep(_RELEASED_AFTER * seconds)
            await session.execute("ROLLBACK")
        sales = await selling
        await _judge(cluster, sales, report)


async def _fill(cluster: Cluster) -> None:
    async with await cluster.session() as session:
        await session.execute(
            "INSERT INTO products (id, name, price_cents, stock) SELECT id, 'e0 ' || id, 1, 1000000 FROM unnest(%s::text[]) id",
            [[*_names(held=False), *_names(held=True)]],
        )


def _names(*, held: bool) -> list[str]:
    return [f"held-{n}" for n in range(_HELD)] if held else [f"free-{n}" for n in range(_PRODUCTS - _HELD)]


async def _sell(instance: Instance, began: float, seconds: float) -> Sequence[_Sale]:
    """Send sales when they are due, without waiting for earlier ones."""
    free, held = _names(held=False), _names(held=True)
    tasks: list[asyncio.Task[_Sale]] = []
    for number in range(int(seconds * _HELD_PER_S)):
        each = _FREE_PER_S // _HELD_PER_S
        orders = [(free[(number * each + n) % len(free)], False) for n in range(each)]
        orders.append((held[number % len(held)], True))
        for place, (product, is_held) in enumerate(orders):
            due = began + number / _HELD_PER_S + place / (_FREE_PER_S + _HELD_PER_S)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(_sale(instance, product, f"s-{len(tasks)}", due, held=is_held)))
    return await asyncio.gather(*tasks)


async def _sale(instance: Instance, product: str, reference: str, due: float, *, held: bool) -> _Sale:
    body = b'{"delta":-1,"reason":"sale","reference":"%b"}' % reference.encode()
    path = f"/products/{product}/stock/adjustments"
    try:
        answer = await instance.endpoint.request("POST", path, body=body, timeout_s=_ANSWER_S)
    except NoAnswerError as error:
        text = f"no answer: {error}"
    else:
        text = "sold" if answer.status == 200 else _problem(answer.body, answer.status)
    return _Sale(reference, held, time.monotonic() - due, text)


def _problem(body: bytes, status: int) -> str:
    start = body.find(b"/problems/")
    slug = body[start + len(b"/problems/") : body.find(b'"', start)].decode() if start >= 0 else "no problem document"
    return f"{status} {slug}"


async def _judge(cluster: Cluster, sales: Sequence[_Sale], report: Report) -> None:
    free, held = [s for s in sales if not s.held], [s for s in sales if s.held]
    sold = [sale for sale in free if sale.answer == "sold"]
    report.tell("sales of free products", len(free))
    report.at_least("of them successful, percent", share(len(sold), len(free)), _SUCCESS_PERCENT)
    report.tell("seconds of a sale of a free product, p50", percentile([sale.seconds for sale in free], 50))
    report.at_most("seconds of a sale of a free product, p99", percentile([sale.seconds for sale in free], 99), _P99_S)
    report.tell("seconds of a sale of a free product, longest", max(sale.seconds for sale in free))
    for name, group in (("free", free), ("held", held)):
        for answer, number in sorted(Counter(sale.answer for sale in group).items()):
            report.tell(f"{name}: {answer}", number)
    odd = [sale for sale in held if sale.answer not in ("sold", "503 overloaded")]
    report.none("sales of held products neither successful nor refused as overloaded", odd)
    entries = await entries_in_ledger(cluster, "s-")
    report.none("acknowledged and not exactly once in the ledger", _wrong(sales, entries, "sold", 1))
    report.none("answered as overloaded and yet in the ledger", _wrong(sales, entries, "503 overloaded", 0))
    report.none("twice in the ledger", [reference for reference, number in entries.items() if number > 1])


def _wrong(sales: Sequence[_Sale], entries: Counter[str], answer: str, owed: int) -> list[_Sale]:
    return [sale for sale in sales if sale.answer == answer and entries[sale.reference] != owed]
