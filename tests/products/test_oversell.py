"""Stock that is never sold twice, over HTTP and by several processes; `make oversell` is the same at full size."""

from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from tests.oversell import Outcome, Sale, sell, served


@pytest.mark.slow
async def test_three_processes_sell_exactly_what_is_there(database_url: str, redis_url: str, namespace: str) -> None:
    """There are 300 units. 30 clients of three service processes try to take one 600 times, and 300 attempts succeed."""
    sale = Sale(clients=30, takes=20, stock=300)
    async with AsyncExitStack() as opened:
        urls = [await opened.enter_async_context(served(database_url, redis_url, namespace)) for _ in range(3)]
        outcome = await sell(urls, database_url, sale)
    assert outcome.faults(sale) == []


def test_what_was_sold_twice_is_seen() -> None:
    """The judgement is no formality: each number that is wrong is named."""
    sale = Sale(clients=2, takes=10, stock=15)
    right = Outcome({"200": 15, "insufficient-stock": 5}, 0, 16, 0, 15, 0, 1.0)
    assert right.faults(sale) == []
    assert replace(right, told={"200": 16, "insufficient-stock": 4}).faults(sale) == [
        "answers: {'200': 16, 'insufficient-stock': 4}, not {'200': 15, 'insufficient-stock': 5}"
    ]
    wrong = replace(right, stock=1, version=17, ledger_sum=1, sold=16, lowest=-1)
    assert len(wrong.faults(sale)) == 5
