"""``python -m benchmarks.contest.writes``: writes at saturation, on random products and on one hot product."""

import sys

from benchmarks.contest.command import LOOKED_AT, Options, at_least, format_ratio, main, row, say
from benchmarks.contest.contenders import CASHEWS, LARDER, LARDER_ALONE, TEXTBOOK, Contender
from benchmarks.contest.contest import Case, Outcome, contest, ratio
from benchmarks.contest.environment import Environment, start_environment
from benchmarks.contest.load import Request, write_requests
from benchmarks.contest.workloads import adjustments, counts, prices
from benchmarks.results import Result, Target

REQUESTS = 50_000
COUNT, PRICE, HOT, RANDOM = "PUT stock, random", "PATCH price, random", "adjust, one hot product", "adjust, random"
_LEDGER = (LARDER, LARDER_ALONE, TEXTBOOK)
_SAME = 0.95
"""How much of a rate is no less than it, in rounds that vary by more."""


async def measure(options: Options) -> Result:
    """Play them through one kind of write after the other."""
    outcomes: list[Outcome] = []
    async with start_environment([LARDER, LARDER_ALONE, CASHEWS, TEXTBOOK]) as environment:
        for cases in _cases(environment):
            outcomes += await contest(environment, cases, rounds=options.rounds, seconds=options.seconds, say=say)
    found = {(outcome.case.workload, outcome.case.contender): outcome for outcome in outcomes}
    rows = [
        row(outcome)
        | {"ledger": outcome.case.ledger, "Larder is": format_ratio(ratio(found[outcome.case.workload, LARDER], outcome))}
        for outcome in outcomes
    ]
    notes = [
        (
            "Larder writes each change of stock into its ledger, by its service, and a trigger looks whether it did. The"
            " textbook locks the row, changes it and adds a movement; the service with cashews keeps no ledger."
            " The peers' tables have none of Larder's triggers."
        ),
        "Without a ledger on either side: a change of price, which writes no movement on Larder either (its triggers run).",
        (
            "Every answer's status is looked at; and after each run as many versions must have been added as writes were"
            " acknowledged, and as many movements where there is a ledger."
        ),
        "One by one: LARDER_WRITE_BATCH=1. PostgreSQL waits for the disk at each commit (fsync, synchronous_commit).",
        LOOKED_AT,
    ]
    return Result("writes", "Writes", rows, _targets(found), notes)


def _cases(environment: Environment) -> list[list[Case]]:
    """Give the cases, one kind of write after the other."""
    hot = environment.paths[len(environment.paths) // 2 :][:1]
    kinds: list[tuple[str, list[Request], tuple[Contender, ...]]] = [
        (COUNT, counts(environment.paths, REQUESTS, 3), (LARDER, LARDER_ALONE, CASHEWS, TEXTBOOK)),
        (PRICE, prices(environment.paths, REQUESTS, 4), (LARDER, CASHEWS)),
        (HOT, adjustments(hot, REQUESTS, 5), (LARDER, LARDER_ALONE, CASHEWS, TEXTBOOK)),
        (RANDOM, adjustments(environment.paths, REQUESTS, 6), (LARDER, LARDER_ALONE, CASHEWS, TEXTBOOK)),
    ]
    cases = []
    for kind, requests, contenders in kinds:
        file = write_requests(environment.directory / kind.replace(" ", "-"), requests)
        cases.append(
            [
                Case(kind, contender, file, versions=True, ledger=kind != PRICE and contender in _LEDGER)
                for contender in contenders
            ]
        )
    return cases


def _targets(found: dict[tuple[str, Contender], Outcome]) -> list[Target]:
    even = ratio(found[HOT, LARDER], found[RANDOM, LARDER])
    return [
        at_least(
            "PUT stock, random products, with its ledger row, over cashews (without)", 4,
            ratio(found[COUNT, LARDER], found[COUNT, CASHEWS]),
        ),
        at_least("adjustments of one hot product, over the textbook", 10, ratio(found[HOT, LARDER], found[HOT, TEXTBOOK])),
        Target(
            "adjustments of one hot product, of those on many products",
            f"≥ 1× (within {1 - _SAME:.0%})",
            format_ratio(even) or "does not count: see the table",
            passed=even is not None and even.middle >= _SAME,
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
