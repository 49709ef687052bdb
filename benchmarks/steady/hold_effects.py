"""What holds do to others: to reads of the same product, and to those who want the units of a hold that has ended."""

import asyncio
import json
from statistics import median
from urllib.parse import urlsplit

from benchmarks.contest.command import say
from benchmarks.contest.contenders import Served
from benchmarks.contest.environment import STOCK, Environment
from benchmarks.contest.load import Request, run, write_requests
from benchmarks.results import Target
from benchmarks.steady.pace import at_rate, clock
from tests.harness.client import Endpoint

HOLDS_PER_S = 200
LEAST_READS = 0.95
_READ_S = 3
_LIFE_S = 1
_AGAIN_S = 0.01
_TRIALS = 3
_READ, _WANTED = -1, -2
UNSOLD = 2
"""Number of products, the last ones, that have no open holds at first and that nobody buys."""


async def effects(environment: Environment, larder: Served, textbook: Served, rounds: int) -> list[Target]:
    """Measure both effects."""
    return [await _reads(environment, larder, rounds), await _withheld(environment, larder, textbook)]


async def _reads(environment: Environment, larder: Served, rounds: int) -> Target:
    """Compare reads at saturation with and without holds of the same product, in alternated order."""
    path = environment.paths[_READ]
    requests = write_requests(environment.directory / "read-of-one", [Request("GET", path)])
    shares: list[float] = []
    wrong = 0
    for number in range(rounds):
        rates: dict[bool, float] = {}
        for held in (False, True) if number % 2 == 0 else (True, False):
            async with larder.turn(environment.probe):
                await run(larder.url, requests, first=0, seconds=1)
                async with asyncio.TaskGroup() as group:
                    if held:
                        group.create_task(_hold_often(larder, path.rpartition("/")[2]))
                    measured = await run(larder.url, requests, first=0, seconds=_READ_S)
            rates[held] = measured.per_second
            wrong += measured.wrong
        shares.append(rates[True] / rates[False])
        say(f"  {number + 1}/{rounds} reads alone {rates[False]:,.0f}/s, beside {HOLDS_PER_S} holds/s {rates[True]:,.0f}/s")
    share = f"{median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})"
    return Target(
        f"GET of a product beside {HOLDS_PER_S} holds/s of it, of GET alone",
        f"≥ {LEAST_READS:.0%}",
        f"does not count: {wrong} wrong answers" if wrong else share,
        passed=not wrong and median(shares) >= LEAST_READS,
    )


async def _hold_often(served: Served, product_id: str) -> None:
    """Hold a unit of a product ``HOLDS_PER_S`` times a second. Raises ``ExceptionGroup`` if one was refused."""
    endpoint = Endpoint(urlsplit(served.url).port or 0)

    async def hold(_: float) -> None:
        if not await _hold(endpoint, product_id, 1, 600):
            raise RuntimeError("a hold was refused")

    await at_rate(HOLDS_PER_S, _READ_S, hold)
    endpoint.close()


async def _withheld(environment: Environment, larder: Served, textbook: Served) -> Target:
    """Hold all units of a product for a second, and then try to hold one of them until that succeeds."""
    product_id = environment.paths[_WANTED].rpartition("/")[2]
    found: dict[str, list[float]] = {}
    for served in (larder, textbook):
        async with served.turn(environment.probe):
            [(stock,)] = served.rows(b"SELECT stock FROM products WHERE id = %s", [product_id])
            assert stock == STOCK  # noqa: S101 - nobody has sold of it
            found[served.contender.name] = [await _wait(served, product_id) for _ in range(_TRIALS)]
        say(f"  {served.contender.label}: units withheld for {', '.join(f'{s:.2f}' for s in found[served.contender.name])} s")
    ours, theirs = (found[served.contender.name] for served in (larder, textbook))
    return Target(
        "seconds for which units of an ended hold were refused to others",
        "0, to the hundredth",
        f"{max(ours):.2f} at most in {len(ours)} trials; the textbook {min(theirs):.0f} to {max(theirs):.0f}, a job a minute",
        passed=round(max(ours), 2) == 0,
    )


async def _wait(served: Served, product_id: str) -> float:
    """Return for how long the units of an ended hold were refused."""
    endpoint = Endpoint(urlsplit(served.url).port or 0)
    units = STOCK
    # Those of the trial before have ended, or end now.
    while not await _hold(endpoint, product_id, units, _LIFE_S):  # noqa: ASYNC110 - another process sets no events
        await asyncio.sleep(_AGAIN_S)
    ended = clock() + _LIFE_S
    await asyncio.sleep(_LIFE_S)
    tried = clock()
    while not await _hold(endpoint, product_id, 1, _LIFE_S):
        await asyncio.sleep(_AGAIN_S)
        tried = clock()
    endpoint.close()
    return max(0.0, tried - ended - _AGAIN_S)


async def _hold(endpoint: Endpoint, product_id: str, units: int, life_s: int) -> bool:
    """Hold units; return whether it was granted. Raises ``RuntimeError`` when the answer is neither that nor a refusal."""
    body = {"lines": [{"product_id": product_id, "quantity": units}], "expires_in_s": life_s}
    answer = await endpoint.request("POST", "/reservations", body=json.dumps(body).encode())
    if answer.status not in {201, 409}:
        raise RuntimeError(f"a hold was answered {answer.status}: {answer.body!r}")
    return answer.status == 201
