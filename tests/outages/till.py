"""A till: a client that sells one unit after another. It repeats each sale with its key until it is answered with success."""

import asyncio
from collections.abc import Sequence

from tests.harness.client import NoAnswerError
from tests.harness.cluster import Instance
from tests.outages.scenarios.report import Report

_PRODUCT = "sold"
_OPENING = 1_000_000
_PAUSE_S = 0.02


class Till:
    """Sells at the instances of ``serving`` in turn. A sale without success is sent again, with its key, to the next one."""

    def __init__(self, serving: Sequence[Instance]) -> None:
        self._serving = serving
        self._sales = 0
        self._again = 0
        self.closed = False

    async def open(self) -> None:
        """Create the product."""
        body = b'{"name": "e0 sold", "price_cents": 1, "stock": %d}' % _OPENING
        answer = await self._serving[0].endpoint.request("PUT", f"/products/{_PRODUCT}", body=body)
        if answer.status != 201:
            raise RuntimeError(f"the product was not created: {answer.body!r}")

    async def sell(self) -> None:
        """Sell until it is closed."""
        while not self.closed:
            await self._sell_one(f"sale-{self._sales}")
            self._sales += 1
            await asyncio.sleep(_PAUSE_S)

    async def _sell_one(self, key: str) -> None:
        attempt = self._sales
        while True:
            instance = self._serving[attempt % len(self._serving)]
            attempt += 1
            try:
                answer = await instance.endpoint.request(
                    "POST",
                    f"/products/{_PRODUCT}/stock/adjustments",
                    headers=f"Idempotency-Key: {key}\r\n",
                    body=b'{"delta": -1, "reason": "sale"}',
                )
            except NoAnswerError:
                self._again += 1
                continue
            if answer.status == 200:
                return
            if answer.status != 503:
                raise RuntimeError(f"a sale was answered {answer.status} by instance {instance.number}: {instance.tail()}")
            self._again += 1

    async def judge(self, report: Report) -> None:
        """Add to the report whether each sale was done once."""
        answer = await self._serving[0].endpoint.request("GET", f"/products/{_PRODUCT}")
        sold = _OPENING - int(answer.body.partition(b'"stock":')[2].partition(b",")[0])
        report.tell("sales sent again", self._again)
        report.demand("units sold", sold, f"{self._sales}", kept=sold == self._sales)
