"""Runs contenders in alternated rounds, checks their answers, and computes ratios round by round."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.contest.contenders import Answer, Contender, ContenderProcess
from benchmarks.contest.environment import Environment
from benchmarks.contest.load import CONNECTIONS, LoadResult, run

WARM_UP_S = 1
_SAMPLE = 25
"""Number of products that are read and compared before and after each run."""
_SIZE_TOLERANCE = 1.0
"""Bytes by which the mean size of an answer may differ. One answer in two hundred of another kind differs by more."""
_QUIET_S = 0.2
"""How long nothing must change until the state counts as final, which is far longer than any write takes."""
_STATE = b"SELECT coalesce(sum(version), 0)::bigint, (SELECT count(*) FROM stock_movements) FROM products"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One contender under one workload.

    Attributes:
        workload: its name, for the table.
        contender: who answers.
        requests: the file that wrk plays.
        first: the line that it begins with.
        status: the status that every answer must have.
        header: the header of every request, as in ``Request``.
        reads_only: whether nothing changes, so that every body must be current.
        by_size: whether answers are checked by their mean size, and not one by one, which would cost wrk time.
        versions: whether each 200 must have raised one product's version by one.
        ledger: whether each 200 must have added one movement.
        clients: the number of clients, each with one request at a time.
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
    """The result of a case.

    Attributes:
        rounds: each round's figures.
        faults: why it does not count; empty if it counts.
        stale: the number of bodies that were older than the database's version when the load was over.
        looked_at: the number of bodies that were compared then.
        played: the number of requests, warm-up included. The next round goes on from there.
    """

    case: Case
    rounds: list[LoadResult] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    stale: int = 0
    looked_at: int = 0
    played: int = 0

    @property
    def rates(self) -> list[float]:
        """The answers in a second of each round."""
        return [measured.per_second for measured in self.rounds]

    @property
    def rate(self) -> float | None:
        """The median of the rates; ``None`` if the case does not count."""
        return None if self.faults or not self.rounds else median(self.rates)

    def latency(self, figure: Callable[[LoadResult], float]) -> float:
        """The median over the rounds of a figure of latency."""
        return median(figure(measured) for measured in self.rounds)


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratio of two rates, taken round by round: its median, least and most."""

    middle: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.middle:.3g}× ({self.least:.3g} to {self.most:.3g})"

    def percent(self) -> str:
        """Return the text of the ratio in percent."""
        return f"{self.middle:.0%} ({self.least:.0%} to {self.most:.0%})"


def ratio(over: Outcome, under: Outcome) -> Ratio | None:
    """Return the ratio of two outcomes; ``None`` if one of them does not count."""
    if over.rate is None or under.rate is None:
        return None
    ratios = [one / other for one, other in zip(over.rates, under.rates, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))


def order(count: int, number: int) -> list[int]:
    """Return the order of round ``number``. Each round begins with another contender, and every second one goes backwards."""
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
    """Run every case in each round, and return their outcomes in the same order.

    Args:
        environment: where the contenders run.
        cases: what is run.
        rounds: how often each case runs.
        seconds: the length of a measured run, after a second of warm-up.
        say: is called with a line about each run.
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


async def _run_once(environment: Environment, served: ContenderProcess, outcome: Outcome, *, seconds: int) -> None:
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


async def _play(served: ContenderProcess, outcome: Outcome, seconds: int) -> LoadResult:
    case = outcome.case
    measured = await run(
        served.url, case.requests, first=case.first + outcome.played, seconds=seconds, status=case.status, each=not case.by_size
    )
    outcome.played += measured.answers
    return measured


def _state(served: ContenderProcess) -> tuple[int, int]:
    """Return the sum of all versions and the number of movements."""
    versions, movements = served.rows(_STATE)[0]
    assert isinstance(versions, int)  # noqa: S101 - as the statement has it
    assert isinstance(movements, int)  # noqa: S101 - as above
    return versions, movements


async def _settled(served: ContenderProcess) -> tuple[int, int]:
    """Return the state once it has stopped changing, because requests that wrk left are still carried out."""
    state, since = await asyncio.to_thread(_state, served), time.monotonic()
    while time.monotonic() < since + _QUIET_S:
        await asyncio.sleep(_QUIET_S / 10)
        if (now := await asyncio.to_thread(_state, served)) != state:
            state, since = now, time.monotonic()
    return state


def _changes(case: Case, before: tuple[int, int], after: tuple[int, int], runs: Sequence[LoadResult]) -> Iterator[str]:
    """Compare the acknowledged writes with what the database has. It may also have those that wrk left under way."""
    acknowledged = sum(measured.answers for measured in runs)
    under_way = CONNECTIONS * len(runs)
    for wanted, what, done in (
        (case.versions, "versions", after[0] - before[0]),
        (case.ledger, "movements", after[1] - before[1]),
    ):
        if wanted and not acknowledged <= done <= acknowledged + under_way:
            yield f"{acknowledged} writes were acknowledged, and {done} {what} were added"


def _look(served: ContenderProcess, sample: Sequence[str], outcome: Outcome, *, count: bool) -> Iterator[str]:
    """Compare a sample of answers with the database. A peer with old bodies still counts; their number is reported."""
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


def _sizes(served: ContenderProcess, paths: Sequence[str], case: Case, measured: LoadResult) -> Iterator[str]:
    """Compare the mean size of the answers with that of checked answers of the right status, headers included."""
    looked_at = served.get(paths, case.header)
    if any(answer.status != case.status for answer in looked_at):
        yield f"not every path is answered by {case.status}"
    size = sum(_size(answer) for answer in looked_at) / len(looked_at)
    if abs(measured.bytes / measured.answers - size) > _SIZE_TOLERANCE:
        yield f"an answer had {measured.bytes / measured.answers:.1f} bytes, and not {size:.1f}"


def _size(answer: Answer) -> int:
    """Return the number of bytes on the wire, as uvicorn writes them."""
    status = len("HTTP/1.1 200 OK\r\n") if answer.status == 200 else len("HTTP/1.1 304 Not Modified\r\n")
    return status + sum(len(name) + len(value) + 4 for name, value in answer.headers.items()) + 2 + len(answer.body)
