"""A shop: buyers who hold units and then commit them, beside others who sell the same units without asking for a hold."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from random import Random

from tests.harness.client import Answer, NoAnswerError
from tests.harness.cluster import Cluster, Instance
from tests.outages.scenarios.report import Report

_PRODUCTS = 60
_STOCK = 8
_BUYERS, _SELLERS = 16, 4
_PAUSE_S = 0.1
_LIFE_S = 600
"""No hold ends by time, so whoever was granted one can commit it."""


class Shop:
    """Buyers at the instances of ``serving``, and sellers at these and at ``forgotten``. Few units are there for many.

    Args:
        serving: the instances that have reservations.
        forgotten: an instance of the release before.
        closed: whether it never opens.
    """

    def __init__(self, serving: Sequence[Instance], forgotten: Instance, *, closed: bool = False) -> None:
        self._serving = serving
        self._forgotten = forgotten
        self._chance = Random(23)
        self._keys = 0
        self.told: Counter[str] = Counter()
        """What buyers and sellers were answered."""
        self.refused_commits: list[str] = []
        self.closed = closed

    async def open(self) -> None:
        """Create the products."""
        items = [{"id": f"few-{number}", "name": "e0 few", "price_cents": 1, "stock": _STOCK} for number in range(_PRODUCTS)]
        answer = await self._serving[0].endpoint.request("POST", "/products/batch", body=json.dumps({"items": items}).encode())
        if answer.status != 200:
            raise RuntimeError(f"the products were not created: {answer.body!r}")

    async def work(self) -> None:
        """Buy and sell until it is closed."""
        sellers = [self._sell(self._forgotten if number % 2 else None) for number in range(_SELLERS)]
        await asyncio.gather(*(self._buy() for _ in range(_BUYERS)), *sellers)

    async def _sell(self, at: Instance | None) -> None:
        while not self.closed:
            await asyncio.sleep(_PAUSE_S)
            path = f"/products/few-{self._chance.randrange(_PRODUCTS)}/stock/adjustments"
            try:
                answer = await self._post(at or self._chance.choice(self._serving), path, {"delta": -1, "reason": "sale"})
            except NoAnswerError:
                continue
            self.told[f"{'a sale at the forgotten instance' if at else 'a sale'}: {answer.status}"] += 1

    async def _buy(self) -> None:
        while not self.closed:
            await asyncio.sleep(_PAUSE_S)
            line = {"product_id": f"few-{self._chance.randrange(_PRODUCTS)}", "quantity": self._chance.randint(1, 4)}
            answer = await self._until_decided("/reservations", {"lines": [line], "expires_in_s": _LIFE_S})
            if answer is None:
                continue
            self.told[f"a hold: {answer.status}"] += 1
            if answer.status == 201:
                await asyncio.sleep(6 * _PAUSE_S * self._chance.random())
                await self._commit(json.loads(answer.body)["id"])

    async def _commit(self, reservation_id: str) -> None:
        answer = await self._until_decided(f"/reservations/{reservation_id}/commit", {}, patient=True)
        assert answer is not None
        if answer.status != 200:
            self.refused_commits.append(f"{answer.status} {answer.body!r}")
        self.told[f"a commit: {answer.status}"] += 1

    async def _until_decided(self, path: str, body: object, *, patient: bool = False) -> Answer | None:
        """Send a request with its key until it is decided. Unless ``patient``, a 503 ends it, as long as nothing is known."""
        self._keys += 1
        headers, unknown = f"Idempotency-Key: shop-{self._keys}\r\n", patient
        while True:
            try:
                answer = await self._post(self._chance.choice(self._serving), path, body, headers)
            except NoAnswerError:
                unknown = True
                continue
            if answer.status != 503:
                return answer
            if not unknown:
                self.told["a hold: 503"] += 1
                return None
            await asyncio.sleep(_PAUSE_S)

    @staticmethod
    async def _post(instance: Instance, path: str, body: object, headers: str = "") -> Answer:
        return await instance.endpoint.request("POST", path, headers=headers, body=json.dumps(body).encode())

    async def judge(self, report: Report, cluster: Cluster) -> None:
        """Add to the report whether a held unit was sold to somebody else."""
        for what, number in sorted(self.told.items()):
            report.tell(what, number)
        report.at_least("holds that were granted", self.told["a hold: 201"], 1)
        report.none("commits of granted holds that were refused", self.refused_commits)
        async with await cluster.session() as session:
            found = await session.execute(
                "SELECT product_id, version FROM stock_movements WHERE reserved_after > stock_after ORDER BY 1, 2 LIMIT 100"
            )
            report.none("versions at which held units had been sold", await found.fetchall())
