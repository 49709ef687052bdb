"""Every idle connection of a running service gets RST, first to Redis and then to PostgreSQL. The next request is served.

After each reset a read, a write and a sale follow, and each of them is sometimes the first. The sale has an idempotency key and
is repeated until it is acknowledged, as a client would do: the ledger must have it once. The audit must go on.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count as count_from
from pathlib import Path

from tests.harness.client import Answer, NoAnswerError
from tests.harness.cluster import AUDIT_INTERVAL_S, PROBE, Cluster, Instance, larder_as_it_comes, start_cluster
from tests.harness.proxy import Proxy
from tests.outages.scenarios.report import Report, entries_in_ledger

_PRODUCT = "sold"
_ATTEMPTS = 5
_AUDITS = "larder_cache_audits_total"
_AUDITS_S = 4 * AUDIT_INTERVAL_S
_PAUSE_S = 0.1
_AGAIN_S = 1.0


@dataclass(slots=True)
class _Client:
    """One client, and the first answers that it got, by kind of request."""

    instance: Instance
    numbers: "count_from[int]" = field(default_factory=count_from)
    answers: Counter[str] = field(default_factory=Counter)
    sales: list[str] = field(default_factory=list)
    never_sold: list[str] = field(default_factory=list)

    async def read(self) -> None:
        self._note("read", await self._ask("GET", f"/products/{_PRODUCT}"))

    async def write(self) -> None:
        body = json.dumps({"price_cents": next(self.numbers)}).encode()
        self._note("write", await self._ask("PATCH", f"/products/{_PRODUCT}", body=body))

    async def sell(self) -> None:
        reference = f"r-{next(self.numbers)}"
        self.sales.append(reference)
        body = json.dumps({"delta": -1, "reason": "sale", "reference": reference}).encode()
        path, headers = f"/products/{_PRODUCT}/stock/adjustments", f'Idempotency-Key: "{reference}"\r\n'
        for attempt in range(_ATTEMPTS):
            answer = await self._ask("POST", path, body=body, headers=headers)
            if attempt == 0:
                self._note("sale", answer)
            if answer is not None and answer.status == 200:
                return
            await asyncio.sleep(_PAUSE_S)
        self.never_sold.append(reference)

    async def _ask(self, method: str, path: str, *, headers: str = "", body: bytes = b"") -> Answer | None:
        try:
            return await self.instance.endpoint.request(method, path, headers=headers, body=body)
        except NoAnswerError:
            return None

    def _note(self, kind: str, answer: Answer | None) -> None:
        self.answers[f"{kind}: {'no answer' if answer is None else answer.status}"] += 1


async def run(directory: Path, seconds: float, report: Report) -> None:
    """Run the scenario, half of the time for each server."""
    async with start_cluster(directory, instances=1, program=larder_as_it_comes) as cluster:
        async with await cluster.session() as session:
            await session.execute(
                "INSERT INTO products (id, name, price_cents, stock) VALUES (%s, 'e0 sold', 1, 1000000)", [_PRODUCT]
            )
        await cluster.until_trusted()
        [instance] = cluster.instances
        await _reset(cluster, "Redis", instance.redis, seconds=seconds / 2, report=report)
        # Afresh: what the first half may have broken for good is not to be found again in the second.
        await instance.terminate()
        await instance.restart(cluster.database)
        await _reset(cluster, "PostgreSQL", instance.postgres, seconds=seconds / 2, report=report)


async def _reset(cluster: Cluster, name: str, proxy: Proxy, *, seconds: float, report: Report) -> None:
    [instance] = cluster.instances
    client = _Client(instance)
    requests: list[Callable[[], Awaitable[None]]] = [client.read, client.write, client.sell]
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    rounds = 0
    while rounds < len(requests) or loop.time() < end:
        await _until_hit(instance)
        proxy.reset()
        for request in requests[rounds % 3 :] + requests[: rounds % 3]:
            await request()
        rounds += 1
    before = (await client.instance.metrics()).get(_AUDITS, 0.0)
    await asyncio.sleep(_AUDITS_S)
    audits = (await client.instance.metrics()).get(_AUDITS, 0.0) - before
    report.tell(f"{name}: rounds", rounds)
    for answer, number in sorted(client.answers.items()):
        kept = answer.endswith((": 200", ": 304"))
        report.demand(f"{name}: first answers, {answer}", number, "" if kept else "none", kept=kept)
    report.none(f"{name}: sales never acknowledged", client.never_sold)
    entries = await entries_in_ledger(cluster, "r-")
    report.none(f"{name}: sales not once in the ledger", [sale for sale in client.sales if entries[sale] != 1])
    report.at_least(f"{name}: audits in {_AUDITS_S:g} s afterwards", audits, 2.0)


async def _until_hit(instance: Instance) -> None:
    """Wait until the instance has its connections again, and nothing is under way except perhaps an audit."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_AGAIN_S):
            while not await instance.hits(PROBE):
                await asyncio.sleep(_PAUSE_S)
    await asyncio.sleep(_PAUSE_S)
