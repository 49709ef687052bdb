"""``python -m benchmarks.contest.ycsb``: reads and updates mixed as YCSB's A, B and C, Zipfian over its 1,000 records."""

import sys

from benchmarks.contest.command import LOOKED_AT, Options, format_ratio, main, row, say
from benchmarks.contest.contenders import CASHEWS, LARDER, TEXTBOOK
from benchmarks.contest.contest import Case, Outcome, contest, ratio
from benchmarks.contest.environment import start_environment
from benchmarks.contest.load import write_requests
from benchmarks.contest.workloads import THETA, ycsb
from benchmarks.results import Result

REQUESTS = 100_000
MIXES = {"A: 50 % reads, 50 % updates": 50, "B: 95 % reads, 5 % updates": 95, "C: reads only": 100}
CONTENDERS = (LARDER, CASHEWS, TEXTBOOK)


async def measure(options: Options) -> Result:
    """Play them through one mix after the other."""
    outcomes: list[Outcome] = []
    async with start_environment(CONTENDERS) as environment:
        # Reads only first: the others leave their rows behind.
        for mix, reads_of_100 in reversed(MIXES.items()):
            requests = write_requests(
                environment.directory / f"mix-{reads_of_100}", ycsb(environment.paths, REQUESTS, 2, reads_of_100=reads_of_100)
            )
            cases = [Case(mix, contender, requests) for contender in CONTENDERS]
            outcomes = await contest(environment, cases, rounds=options.rounds, seconds=options.seconds, say=say) + outcomes
    larder = {outcome.case.workload: outcome for outcome in outcomes if outcome.case.contender == LARDER}
    rows = [
        row(outcome)
        | {
            "old bodies afterwards": f"{outcome.stale} of {outcome.looked_at}",
            "Larder is": format_ratio(ratio(larder[outcome.case.workload], outcome)),
        }
        for outcome in outcomes
    ]
    notes = [
        (
            f"Zipfian with theta {THETA:g} over 1,000 products. An update is PUT stock; Larder and the textbook keep a ledger"
            " of it, the service with cashews does not. Every answer's status is looked at."
        ),
        (
            "Old bodies afterwards: of 25 products read when the load was over, those that were older than what the database"
            " had, over all rounds. One of Larder's would make its row not count."
        ),
        LOOKED_AT,
    ]
    return Result("ycsb", "YCSB's mixes", rows, (), notes)


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
