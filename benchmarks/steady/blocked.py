"""``python -m benchmarks.steady.blocked``: how long one request keeps the others of its process waiting.

One client reads a cached product again and again, while another sends one of the largest requests that are accepted: hostile
bodies, batches, lists, pages. The longest of the reads is how long the event loop was blocked, the network and the read itself
included. It is measured in several rounds, and the median of the rounds counts, because this machine is not alone.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from statistics import median

from app.api.models import MAX_BATCH, MAX_LINES
from benchmarks import results
from benchmarks.results import Cell, Result, Target
from benchmarks.steady.pace import clock
from benchmarks.steady.testbed import Service, larder, product_id, servers, warm
from benchmarks.tables import markdown
from tests.harness.client import Endpoint
from tests.harness.large_bodies import ADJUSTMENTS, LARGE_BODIES
from tests.harness.loop import run

LIMIT_MS = 50
PRODUCTS = 2_000
_READ = f"/products/{product_id(0)}"
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class LargeRequest:
    """A request, and how long it kept the reads waiting, in ms for each round."""

    name: str
    method: str
    path: str
    body: bytes = b""
    blocked_ms: list[float] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)

    def row(self) -> dict[str, Cell]:
        """The table's row."""
        return {
            "request": f"{self.method} {self.path}" + (f": {self.name}" if self.name else ""),
            "body MB": round(len(self.body) / 1e6, 2),
            "answer": ", ".join(str(status) for status in sorted(self.statuses)),
            "blocked ms": round(median(self.blocked_ms), 1),
            "longest ms": round(max(self.blocked_ms), 1),
        }


def requests() -> list[LargeRequest]:
    """Return the requests: all bodies that the suite checks, too, and the largest requests without a fault."""
    lines = [{"product_id": product_id(number % PRODUCTS), "delta": -1} for number in range(MAX_LINES)]
    holds = [{"product_id": product_id(number % PRODUCTS), "quantity": 1} for number in range(MAX_LINES)]
    items = [{"id": product_id(number), "name": "A name", "price_cents": 1, "stock": 1_000} for number in range(MAX_BATCH)]
    return [
        *(LargeRequest(name, "POST", path, body) for name, (path, body) in LARGE_BODIES.items()),
        LargeRequest("all lines", "POST", ADJUSTMENTS, json.dumps({"lines": lines, "reason": "sale"}).encode()),
        LargeRequest("all lines", "POST", "/reservations", json.dumps({"lines": holds, "expires_in_s": 1}).encode()),
        LargeRequest("all items", "POST", "/products/batch", json.dumps({"items": items}).encode()),
        LargeRequest("", "GET", "/products?limit=250"),
        LargeRequest("", "GET", "/products?q=product"),
        LargeRequest("", "GET", f"/products/{product_id(0)}/stock/movements?limit=250"),
        LargeRequest("", "GET", "/openapi.json"),
        LargeRequest("", "GET", "/metrics"),
        LargeRequest("", "GET", "/docs"),
    ]


async def measure(rounds: int) -> Result:
    """Send every request in each round."""
    large = requests()
    idle = LargeRequest("", "", "")
    async with servers() as started:
        await started.fill(PRODUCTS)
        async with larder(started) as service:
            await warm(service.endpoint, [_READ])
            for number in range(rounds):
                idle.blocked_ms.append(await _longest_read_ms(service, asyncio.sleep(0.2)))
                for one in large if number % 2 == 0 else reversed(large):
                    one.blocked_ms.append(await _longest_read_ms(service, _ask(service, one)))
            print(f"{rounds} rounds of {len(large)} requests", flush=True)
    return _result(large, idle, rounds)


async def _ask(service: Service, one: LargeRequest) -> None:
    endpoint = Endpoint(service.endpoint.port)
    try:
        answer = await endpoint.request(one.method, one.path, body=one.body, timeout_s=_PATIENCE_S)
        one.statuses.add(answer.status)
    finally:
        endpoint.close()


async def _longest_read_ms(service: Service, meanwhile: Coroutine[None, None, None]) -> float:
    """Read one after another until ``meanwhile`` is done, and once more; return the longest read."""
    under_way = asyncio.create_task(meanwhile)
    longest_s, last = 0.0, False
    while not last:
        last = under_way.done()
        began = clock()
        answer = await service.endpoint.request("GET", _READ, timeout_s=_PATIENCE_S)
        if answer.status != 200:
            raise RuntimeError(f"GET {_READ} was answered {answer.status}")
        longest_s = max(longest_s, clock() - began)
    await under_way
    return 1_000 * longest_s


def _result(large: Sequence[LargeRequest], idle: LargeRequest, rounds: int) -> Result:
    worst = max(large, key=lambda one: median(one.blocked_ms))
    found = median(worst.blocked_ms)
    return Result(
        "blocked",
        "How long one request keeps the others waiting",
        [one.row() for one in sorted(large, key=lambda one: -median(one.blocked_ms))],
        [
            Target(
                "loop blocked by any one request",
                f"<= {LIMIT_MS} ms",
                f"{found:.1f} ms ({worst.row()['request']})",
                passed=found <= LIMIT_MS,
            )
        ],
        [
            f"{rounds} rounds. The longest read is the median of the rounds; its largest is beside it.",
            f"While no other request is sent, the longest of the reads of 0.2 s takes {median(idle.blocked_ms):.1f} ms.",
        ],
    )


def main() -> int:
    """Measure, print, keep the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady.blocked", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    result = run(measure(parser.parse_args().rounds))
    results.write(result)
    print(markdown(result.rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
