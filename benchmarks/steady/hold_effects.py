"""What holds do to others: to reads of the same product, and to those who want the units of a hold that has ended.

Each hold gives its product a new version, so that a read of it gets other bytes, from the same slot. What reads lose is
measured beside holds of the same product and beside as many of another one: what both lose is the processor time of the writes,
and only the difference is due to the product. Reads come as fast as they are answered (``wrk``), and at a share of that peak
(``h2load``). Measured, too: what followers of the change feed that wait cost PostgreSQL.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from statistics import mean, median
from urllib.parse import urlsplit

from benchmarks.contest.command import say
from benchmarks.contest.contenders import ContenderProcess
from benchmarks.contest.environment import STOCK, Environment
from benchmarks.contest.load import Request, run, write_requests
from benchmarks.results import Target
from benchmarks.steady import h2load
from benchmarks.steady.pace import at_rate, clock
from benchmarks.steady.percentiles import percentile
from tests.harness.client import Endpoint

HOLDS_PER_S = 200
LEAST_READS = 0.95
DEMAND = 0.7
"""The constant rate of reads, as a share of the peak."""
FOLLOWERS = 500
MOST_OF_ONE = 1.2
_READ_S = 3
_FOLLOW_S = 8.0
_SETTLES_S = 1.5
"""PostgreSQL reports what a busy session has done after a second."""
_TRANSACTIONS = b"SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
_LIFE_S = 1
_AGAIN_S = 0.01
_TRIALS = 3
ALONE, SAME, OTHER = "alone", "beside holds of it", "beside holds of another product"
MODES = (ALONE, SAME, OTHER)
_READ, _WANTED, _OTHER = -1, -2, -3
UNSOLD = 3
"""Number of products, the last ones, that have no open holds at first and that nobody buys."""


async def effects(environment: Environment, larder: ContenderProcess, textbook: ContenderProcess, rounds: int) -> list[Target]:
    """Measure all effects."""
    return [
        *await _reads(environment, larder, rounds),
        await _followers(environment, larder),
        await _withheld(environment, larder, textbook),
    ]


async def _reads(environment: Environment, larder: ContenderProcess, rounds: int) -> list[Target]:
    """Compare reads with and without holds, at saturation and at a constant rate, in alternated order."""
    path = environment.paths[_READ]
    requests = write_requests(environment.directory / "read-of-one", [Request("GET", path)])
    faults: list[str] = []
    rates: dict[str, list[float]] = {mode: [] for mode in MODES}
    for number in range(rounds):
        for mode in _order(number):
            async with larder.turn(environment.probe), _holding(environment, larder, mode, faults):
                await run(larder.url, requests, first=0, seconds=1)
                measured = await run(larder.url, requests, first=0, seconds=_READ_S)
            rates[mode].append(measured.per_second)
            faults += [f"{measured.wrong} wrong answers"] if measured.wrong else []
        say(f"  {number + 1}/{rounds} reads {', '.join(f'{mode} {rates[mode][-1]:,.0f}/s' for mode in MODES)}")
    paced_faults: list[str] = []
    load = h2load.Load(DEMAND * median(rates[ALONE]), _READ_S)
    runs: dict[str, list[h2load.Run]] = {mode: [] for mode in MODES}
    for number in range(rounds):
        for mode in _order(number):
            async with larder.turn(environment.probe), _holding(environment, larder, mode, paced_faults):
                runs[mode].append(await h2load.run(larder.url, [path], load, environment.directory))
            paced_faults += [] if runs[mode][-1].verified else [f"answers {dict(runs[mode][-1].statuses)}"]
        told = (f"{mode} {runs[mode][-1].rate:,.0f}/s, p99 {_p99_ms(runs[mode][-1]):.1f} ms" for mode in MODES)
        say(f"  {number + 1}/{rounds} reads at {load.rate:,.0f}/s: {', '.join(told)}")
    demanded = _shares([one.rate for one in runs[SAME]], [one.rate for one in runs[ALONE]])
    p99s = ", ".join(f"{median(map(_p99_ms, runs[mode])):.1f} ms {mode}" for mode in MODES)
    at_peak = {mode: _shares(rates[SAME], rates[mode]) for mode in (ALONE, OTHER)}
    return [
        _judged(
            f"GET of a product beside {HOLDS_PER_S} holds/s of it, at {DEMAND:.0%} of the peak of GET alone, of GET alone",
            demanded,
            f"of {load.rate:,.0f}/s; p99 {p99s}",
            paced_faults,
        ),
        _judged(
            f"the same at the peak, of GET beside {HOLDS_PER_S} holds/s of another product",
            at_peak[OTHER],
            f"of GET alone {_told(at_peak[ALONE])}, the processor time of the writes included",
            faults,
        ),
    ]


def _order(number: int) -> Sequence[str]:
    return MODES if number % 2 == 0 else MODES[::-1]


def _p99_ms(found: h2load.Run) -> float:
    return 1_000 * percentile(found.latencies_s, 99)


def _shares(some: Sequence[float], whole: Sequence[float]) -> list[float]:
    return [one / of for one, of in zip(some, whole, strict=True)]


def _told(shares: Sequence[float]) -> str:
    return f"{median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})"


def _judged(claim: str, shares: Sequence[float], more: str, faults: Sequence[str]) -> Target:
    told = f"does not count: {faults[0]}" if faults else f"{_told(shares)}; {more}"
    return Target(claim, f"≥ {LEAST_READS:.0%}", told, passed=not faults and median(shares) >= LEAST_READS)


@asynccontextmanager
async def _holding(environment: Environment, served: ContenderProcess, mode: str, faults: list[str]) -> AsyncIterator[None]:
    """Hold a unit ``HOLDS_PER_S`` times a second meanwhile, unless the mode is ``ALONE``; note if too few were granted."""
    if mode == ALONE:
        yield
        return
    product_id = environment.paths[_READ if mode == SAME else _OTHER].rpartition("/")[2]
    endpoint = Endpoint(urlsplit(served.url).port or 0)
    granted = 0

    async def hold(_: float) -> None:
        nonlocal granted
        is_granted = await _hold(endpoint, product_id, 1, 600)
        granted += is_granted

    began = clock()
    holding = asyncio.create_task(at_rate(HOLDS_PER_S, 3_600, hold))
    try:
        yield
    finally:
        rate = granted / (clock() - began)
        failed = holding.done() and holding.exception()
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        endpoint.close()
        if failed or rate < LEAST_READS * HOLDS_PER_S:
            faults.append(f"only {rate:.0f} holds/s were granted{f': {failed}' if failed else ''}")


async def _followers(environment: Environment, larder: ContenderProcess) -> Target:
    """Compare the transactions of PostgreSQL with no follower, one, and many that wait, each counted twice."""
    counted: dict[int, list[float]] = {0: [], 1: [], FOLLOWERS: []}
    async with larder.turn(environment.probe):
        endpoint = Endpoint(urlsplit(larder.url).port or 0)
        cursor = json.loads((await endpoint.request("GET", "/changes")).body)["next"]
        await _transactions_beside(larder, endpoint, cursor, 0)  # the service was stopped for the turns of others
        for number in (*counted, *reversed(counted)):
            counted[number].append(await _transactions_beside(larder, endpoint, cursor, number))
            say(f"  {number} followers: {counted[number][-1]:.1f} transactions/s")
        endpoint.close()
    without, one, many = (mean(rates) for rates in counted.values())
    return Target(
        f"transactions a second that {FOLLOWERS} waiting followers cost PostgreSQL, over what one does",
        f"≤ {MOST_OF_ONE:g}×",
        f"{(many - without) / (one - without):.2f}×: {one - without:.1f} of one, {many - without:.1f} of {FOLLOWERS},"
        f" {without:.1f} without",
        passed=many - without <= MOST_OF_ONE * (one - without),
    )


async def _transactions_beside(larder: ContenderProcess, endpoint: Endpoint, cursor: str, followers: int) -> float:
    """Return PostgreSQL's transactions a second while so many followers wait. Raises ``RuntimeError``: one was not answered."""
    following = [asyncio.create_task(_follow(endpoint, cursor)) for _ in range(followers)]
    before, began = await _transactions(larder)
    await asyncio.sleep(_FOLLOW_S)
    after, ended = await _transactions(larder)
    failed = [task for task in following if task.done()]
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    if failed:
        raise RuntimeError(f"{len(failed)} of {followers} followers were not answered: {failed[0]}")
    return (after - before) / (ended - began)


async def _follow(endpoint: Endpoint, cursor: str) -> None:
    """Follow until cancelled. Raises ``NoAnswerError``, and ``KeyError`` if an answer is none of the feed."""
    while True:
        answer = await endpoint.request("GET", f"/changes?after={cursor}&wait=30", timeout_s=60)
        cursor = json.loads(answer.body)["next"]


async def _transactions(served: ContenderProcess) -> tuple[int, float]:
    """Return PostgreSQL's count of transactions, once it is told, and when."""
    await asyncio.sleep(_SETTLES_S)
    [(count,)] = served.rows(_TRANSACTIONS)
    assert isinstance(count, int)  # noqa: S101 - it is a bigint
    return count, clock()


async def _withheld(environment: Environment, larder: ContenderProcess, textbook: ContenderProcess) -> Target:
    """Hold all units of a product for a second, and then try to hold one of them until that succeeds."""
    product_id = environment.paths[_WANTED].rpartition("/")[2]
    found: dict[str, list[float]] = {}
    for served in (larder, textbook):
        async with served.turn(environment.probe):
            [(stock,)] = served.rows(b"SELECT stock FROM products WHERE id = %s", [product_id])
            assert stock == STOCK  # noqa: S101 - nobody has sold of it
            # The textbook's trials take a minute each.
            trials = _TRIALS if served is larder else 1
            found[served.contender.name] = [await _wait(served, product_id) for _ in range(trials)]
        say(f"  {served.contender.label}: units withheld for {', '.join(f'{s:.2f}' for s in found[served.contender.name])} s")
    ours, theirs = (found[served.contender.name] for served in (larder, textbook))
    return Target(
        "seconds for which units of an ended hold were refused to others",
        "0, to the hundredth",
        f"{max(ours):.2f} at most in {len(ours)} trials; the textbook {theirs[0]:.0f}, a job a minute",
        passed=round(max(ours), 2) == 0,
    )


async def _wait(served: ContenderProcess, product_id: str) -> float:
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
