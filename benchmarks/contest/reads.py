"""``python -m benchmarks.contest.reads``: cached reads at saturation, every contender, uniform over 1,000 products."""

import sys

from benchmarks.contest.command import LOOKED_AT, Options, at_least, format_ratio, main, row, say
from benchmarks.contest.contenders import (
    CASHEWS,
    CEILING,
    FASTAPI_CACHE,
    LARDER,
    LARDER_2,
    LARDER_KEYED,
    NO_CACHE,
    TEXTBOOK,
    workers_are_built,
)
from benchmarks.contest.contest import Case, contest, ratio
from benchmarks.contest.environment import start_environment
from benchmarks.contest.load import write_requests
from benchmarks.contest.workloads import reads
from benchmarks.results import Result

REQUESTS = 100_000
_FRESH = 'If-None-Match: "1"'


async def measure(options: Options) -> Result:
    """Play all of them."""
    contenders = [CEILING, LARDER, LARDER_KEYED, LARDER_2, CASHEWS, FASTAPI_CACHE, TEXTBOOK, NO_CACHE]
    notes = []
    if not workers_are_built():
        contenders.remove(LARDER_2)
        notes.append("Not run: two workers. This `larder serve` has no --workers.")
        say(notes[-1])
    async with start_environment(contenders) as environment:
        plain = write_requests(environment.directory / "reads", reads(environment.paths, REQUESTS, 1))
        fresh = write_requests(environment.directory / "fresh", reads(environment.paths, REQUESTS, 1, header=_FRESH))
        header = environment.served[LARDER_KEYED].header
        keyed = write_requests(environment.directory / "keyed", reads(environment.paths, REQUESTS, 1, header=header))
        cases = [
            Case("GET", contender, keyed if contender.keyed else plain, reads_only=True, by_size=True)
            for contender in contenders
        ]
        cases.append(Case("GET, 304", LARDER, fresh, status=304, header=_FRESH, reads_only=True, by_size=True))
        outcomes = await contest(environment, cases, rounds=options.rounds, seconds=options.seconds, say=say)
    found = {outcome.case.contender: outcome for outcome in outcomes if outcome.case.status == 200}
    rows = [
        row(outcome)
        | {
            "of the ceiling": format_ratio(ratio(outcome, found[CEILING]), percent=True),
            "over cashews": format_ratio(ratio(outcome, found[CASHEWS])),
        }
        for outcome in outcomes
    ]
    sizes = [outcome.rounds[-1].bytes / outcome.rounds[-1].answers for outcome in (found[CEILING], found[LARDER])]
    notes += [
        f"1,000 products, every one cached. An answer of the ceiling has {sizes[0]:.0f} bytes, one of Larder {sizes[1]:.0f}.",
        "Of reads, what wrk counts anyway is looked at: answers of 400 and above, and bytes, which must be those of hits.",
        LOOKED_AT,
    ]
    return Result(
        "reads",
        "Cached reads",
        rows,
        [
            at_least("cached GET, of the ceiling", 0.65, ratio(found[LARDER], found[CEILING]), percent=True),
            at_least("cached GET, over FastAPI + cashews", 10, ratio(found[LARDER], found[CASHEWS])),
            at_least("cached GET with an API key, of without", 0.97, ratio(found[LARDER_KEYED], found[LARDER]), percent=True),
        ],
        notes,
    )


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
