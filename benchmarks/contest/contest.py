"""Contenders in alternated rounds, what they answered looked at, and ratios by round."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.contest.contenders import Answer, Contender, Served
from benchmarks.contest.environment import Environment
from benchmarks.contest.load import CONNECTIONS, Measured, run

WARM_UP_S = 1
_SAMPLE = 25
"""Products looked at before and after each run."""
_SIZE_TOLERANCE = 1.0
"""Bytes per answer: one in two hundred of another kind shows."""
_QUIET_S = 0.2
"""Without a change: far longer than any write takes."""
_STATE = b"SELECT coalesce(sum(version), 0)::bigint, (SELECT count(*) FROM stock_movements) FROM products"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One contender under one workload.

    Attributes:
        workload: its name, for the table.
        contender: who.
        requests: the file that wrk plays.
        first: the line that it begins with.
        status: what every answer must have.
        header: of every request, as in ``Request``.
        reads_only: nothing changes: every body must be current.
        by_size: answers are not looked at one by one, which would cost wrk time, but by their mean size.
        versions: each 200 must have raised one product's version by one.
        ledger: each 200 must have added one movement.
        clients: how many send a request at a time.
    """

    workload: str
    contender: Contender
    requests: Path
    first: int = 0
    status: int = 200
    header: str = ""
    reads_only: bool = False
    by_size: bool = False
    versions: bool = False
    ledger: bool = False
    clients: int = CONNECTIONS


@dataclass(slots=True)
class Outcome:
    """What came of a case.

    Attributes:
        rounds: each round's figures.
        faults: why it does not count; empty: it does.
        stale: bodies of an older version than the database's, seen when the load was over.
        looked_at: bodies looked at then.
        played: requests, warm-up included: each round goes on from there.
    """

    case: Case
    rounds: list[Measured] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    stale: int = 0
    looked_at: int = 0
    played: int = 0

    @property
    def rates(self) -> list[float]:
        """Answers in a second, by round."""
        return [measured.per_second for measured in self.rounds]

    @property
    def rate(self) -> float | None:
        """The median of the rates; none, if it does not count."""
        return None if self.faults or not self.rounds else median(self.rates)

    def latency(self, figure: Callable[[Measured], float]) -> float:
        """The median over the rounds of a figure of latency."""
        return median(figure(measured) for measured in self.rounds)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times one rate is another, round by round: median, least, most."""

    middle: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.middle:.3g}× ({self.least:.3g} to {self.most:.3g})"

    def percent(self) -> str:
        """The same in percent."""
        return f"{self.middle:.0%} ({self.least:.0%} to {self.most:.0%})"


def ratio(over: Outcome, under: Outcome) -> Ratio | None:
    """Divide two outcomes round by round; none, if one of them does not count."""
    if over.rate is None or under.rate is None:
        return None
    ratios = [one / other for one, other in zip(over.rates, under.rates, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))


def order(count: int, number: int) -> list[int]:
    """Give the order of round ``number``: each begins with another contender, and every other goes backwards."""
    step = 1 if number % 2 == 0 else -1
    return [(number + step * place) % count for place in range(count)]


async def contest(
    environment: Environment,
    cases: Sequence[Case],
    *,
    rounds: int,
    seconds: int,
    say: Say,
) -> list[Outcome]:
    """Let every case run in each round.

    Args:
        environment: where.
        cases: who does what; the order of the outcomes.
        rounds: how often.
        seconds: of a measured run; a second of warm-up goes before it.
        say: told of each run.
    """
    outcomes = [Outcome(case) for case in cases]
    for number in range(rounds):
        for place in order(len(outcomes), number):
            outcome = outcomes[place]
            served = environment.served[outcome.case.contender]
            async with served.turn(environment.probe):
                await _run_once(environment, served, outcome, seconds=seconds)
            last = outcome.rounds[-1]
            faults = f"; DOES NOT COUNT: {outcome.faults[-1]}" if outcome.faults else ""
            who = f"{outcome.case.workload}, {outcome.case.contender.label}"
            say(f"  {number + 1}/{rounds} {who}: {last.per_second:,.0f}/s{faults}")
    return outcomes


async def _run_once(environment: Environment, served: Served, outcome: Outcome, *, seconds: int) -> None:
    case = outcome.case
    sample = Random(len(outcome.rounds)).sample(environment.paths, min(_SAMPLE, len(environment.paths)))
    outcome.faults += await asyncio.to_thread(_look, served, sample, outcome, count=False)
    before = None if case.reads_only else await asyncio.to_thread(_state, served)
    answers = [await _play(served, outcome, WARM_UP_S), await _play(served, outcome, seconds)]
    outcome.rounds.append(answers[-1])
    if wrong := sum(measured.wrong for measured in answers):
        outcome.faults.append(f"{wrong} answers were not {case.status}")
    if before is not None:
        outcome.faults += _changes(case, before, await _settled(served), answers)
    outcome.faults += await asyncio.to_thread(_look, served, sample, outcome, count=True)
    if case.by_size:
        outcome.faults += await asyncio.to_thread(_sizes, served, environment.paths, case, answers[-1])


async def _play(served: Served, outcome: Outcome, seconds: int) -> Measured:
    case = outcome.case
    measured = await run(
        served.url, case.requests, first=case.first + outcome.played, seconds=seconds, status=case.status, each=not case.by_size
    )
    outcome.played += measured.answers
    return measured


def _state(served: Served) -> tuple[int, int]:
    """Give the sum of all versions and the number of movements."""
    versions, movements = served.rows(_STATE)[0]
    assert isinstance(versions, int)  # noqa: S101 - as the statement has it
    assert isinstance(movements, int)  # noqa: S101 - as above
    return versions, movements


async def _settled(served: Served) -> tuple[int, int]:
    """Give the same when it does not change any more: wrk leaves, and what it asked for last is still done."""
    state, since = await asyncio.to_thread(_state, served), time.monotonic()
    while time.monotonic() < since + _QUIET_S:
        await asyncio.sleep(_QUIET_S / 10)
        if (now := await asyncio.to_thread(_state, served)) != state:
            state, since = now, time.monotonic()
    return state


def _changes(case: Case, before: tuple[int, int], after: tuple[int, int], runs: Sequence[Measured]) -> Iterator[str]:
    """Compare the acknowledged writes with what the database has. Those that wrk left under way may have been done, too."""
    acknowledged = sum(measured.answers for measured in runs)
    under_way = CONNECTIONS * len(runs)
    for wanted, what, done in (
        (case.versions, "versions", after[0] - before[0]),
        (case.ledger, "movements", after[1] - before[1]),
    ):
        if wanted and not acknowledged <= done <= acknowledged + under_way:
            yield f"{acknowledged} writes were acknowledged, and {done} {what} were added"


def _look(served: Served, sample: Sequence[str], outcome: Outcome, *, count: bool) -> Iterator[str]:
    """Read a sample: 200, the right product, the database's version. A peer that shows the past still counts; it is told of."""
    ids = [path.rpartition("/")[2] for path in sample]
    versions = {row[0]: row[1] for row in served.rows(b"SELECT id, version FROM products WHERE id = ANY(%s)", [ids])}
    old = 0
    for product_id, answer in zip(ids, served.get(sample), strict=True):
        try:
            body = json.loads(answer.body)
            right = answer.status == 200 and body["id"] == product_id
            old += body["version"] < versions[product_id]
        except (ValueError, KeyError, TypeError):
            right = False
        if not right:
            yield f"GET {product_id} was answered by {answer.status} {answer.body[:80]!r}"
            return
    if count:
        outcome.stale += old
        outcome.looked_at += len(sample)
    if old and (outcome.case.reads_only or not outcome.case.contender.peer):
        yield f"{old} of {len(sample)} bodies were older than the database's"


def _sizes(served: Served, paths: Sequence[str], case: Case, measured: Measured) -> Iterator[str]:
    """Compare the bytes of an answer with those of one that was looked at: it was a hit of that status, headers and all."""
    looked_at = served.get(paths, case.header)
    if any(answer.status != case.status for answer in looked_at):
        yield f"not every path is answered by {case.status}"
    size = sum(_size(answer) for answer in looked_at) / len(looked_at)
    if abs(measured.bytes / measured.answers - size) > _SIZE_TOLERANCE:
        yield f"an answer had {measured.bytes / measured.answers:.1f} bytes, and not {size:.1f}"


def _size(answer: Answer) -> int:
    """Bytes on the wire, as uvicorn writes them."""
    status = len("HTTP/1.1 200 OK\r\n") if answer.status == 200 else len("HTTP/1.1 304 Not Modified\r\n")
    return status + sum(len(name) + len(value) + 4 for name, value in answer.headers.items()) + 2 + len(answer.body)
