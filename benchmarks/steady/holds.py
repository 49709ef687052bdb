"""``python -m benchmarks.steady.holds``: holds that are made and committed, on products with few and with many open ones.

Larder beside the textbook (``benchmarks/peers/textbook_holds.py``), in alternated rounds. One product has 10 open holds, one
10,000, one 100,000, and others none; the clients hold one unit and commit it, 32 at once, and also 64 and 128 at once on the
product with 10,000. A run counts only if every answer was as expected, and if as many units left the stock as commits were
acknowledged. With ``--full``, also what holds do to others: reads of the same product, and how long units are withheld after
the end of their hold. Needs ``wrk``.
"""

import argparse
import asyncio
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.contest.command import at_least, format_ratio, say
from benchmarks.contest.contenders import LARDER, Contender, ContenderProcess
from benchmarks.contest.contest import Case, Outcome, Ratio, order, ratio
from benchmarks.contest.environment import STOCK, Environment, product_ids, start_environment
from benchmarks.contest.load import CONNECTIONS, LoadResult, play
from benchmarks.results import Cell, Result, Target, write
from benchmarks.steady.hold_effects import UNSOLD, effects
from benchmarks.tables import markdown

Key = tuple[str, int, Contender]
"""The open holds of a case, its clients and its contender."""

TEXTBOOK = Contender("textbook_holds", "textbook: FOR UPDATE, SUM, cron, DEL", "textbook_holds")
PRODUCTS = 1_000
OPEN = (10, 10_000, 100_000)
"""Open holds of the first products."""
RANDOM = "0, random products"
CROWDS = (64, 128)
"""Clients of a product that many want."""
FLAT = 1.25
WARM_UP_S = 1
_SCRIPT = Path(__file__).parents[1] / "contest" / "holds.lua"
_QUIET_S = 0.3
_SALES = b"SELECT sum(stock)::bigint, (SELECT count(*) FROM stock_movements WHERE reason = 'sale') FROM products"

_FILL_LARDER = (
    """
    WITH made AS (
        INSERT INTO reservations (id, expires_at, created_at, updated_at)
        SELECT md5(%(id)s || n), now() + interval '7 days' + n * interval '1 ms', now(), now()
        FROM generate_series(1, %(open)s) AS n RETURNING id, expires_at
    )
    INSERT INTO reservation_lines (reservation_id, line, product_id, quantity, expires_at)
    SELECT id, 0, %(id)s, 1, expires_at FROM made
    """,
    "UPDATE products SET reserved = reserved + %(open)s WHERE id = %(id)s",
)
_FILL_TEXTBOOK = (
    """
    INSERT INTO holds (id, product_id, quantity, expires_at)
    SELECT md5(%(id)s || n), %(id)s, 1, now() + interval '7 days' + n * interval '1 ms' FROM generate_series(1, %(open)s) AS n
    """,
)


@dataclass(frozen=True, slots=True)
class Options:
    """How often, how long, and whether everything is measured."""

    rounds: int
    seconds: int
    full: bool


async def measure(options: Options) -> Result:
    """Measure all rounds."""
    async with start_environment([LARDER, TEXTBOOK], products=PRODUCTS) as environment:
        for contender, statements in ((LARDER, _FILL_LARDER), (TEXTBOOK, _FILL_TEXTBOOK)):
            await _fill(environment.served[contender], statements)
        outcomes = await _contest(environment, _cases(environment, full=options.full), options)
        found = {_key(outcome.case): outcome for outcome in outcomes}
        targets = _targets(found)
        if options.full:
            targets += await effects(environment, environment.served[LARDER], environment.served[TEXTBOOK], options.rounds)
    return Result(
        "holds",
        "Holds",
        [_row(outcome, found) for outcome in outcomes],
        targets,
        [
            "A hold of one unit, and its commit; the rate is that of the pairs. Latency is each request's.",
            "open_holds: those that the product has meanwhile.",
            "PostgreSQL waits for the disk at each commit. The textbook keeps a ledger of sales, and none of holds.",
            f"Load average at the end {os.getloadavg()[0]:.1f}.",
        ],
    )


async def _fill(served: ContenderProcess, statements: tuple[str, ...]) -> None:
    async with await psycopg.AsyncConnection.connect(served.database_url, autocommit=True) as connection:
        for product_id, number in zip(product_ids(len(OPEN)), OPEN, strict=True):
            async with connection.transaction():
                for statement in statements:
                    await connection.execute(statement.encode(), {"id": product_id, "open": number})
        await connection.execute("VACUUM ANALYZE")


def _cases(environment: Environment, *, full: bool) -> list[Case]:
    ids = product_ids(PRODUCTS)
    files = {name: environment.directory / f"of-{name}" for name in (*OPEN, RANDOM)}
    for product_id, number in zip(ids, OPEN, strict=False):
        files[number].write_text(f"{product_id}\n")
    files[RANDOM].write_text("".join(f"{product_id}\n" for product_id in ids[len(OPEN) : -UNSOLD]))
    wanted = [(LARDER, name) for name in (*OPEN, RANDOM)] + [(TEXTBOOK, 10_000), (TEXTBOOK, RANDOM)]
    if full:
        wanted += [(TEXTBOOK, 10), (TEXTBOOK, 100_000)]
    crowded = [
        Case(str(10_000), contender, files[10_000], clients=crowd) for crowd in CROWDS for contender in (LARDER, TEXTBOOK)
    ]
    return [Case(str(name), contender, files[name]) for contender, name in wanted] + crowded


async def _contest(environment: Environment, cases: list[Case], options: Options) -> list[Outcome]:
    outcomes = [Outcome(case) for case in cases]
    for number in range(options.rounds):
        for place in order(len(outcomes), number):
            outcome = outcomes[place]
            served = environment.served[outcome.case.contender]
            async with served.turn(environment.probe):
                await _run_once(served, outcome, options.seconds)
            faults = f"; DOES NOT COUNT: {outcome.faults[-1]}" if outcome.faults else ""
            who = f"{outcome.case.workload} open, {outcome.case.clients} clients, {outcome.case.contender.label}"
            say(f"  {number + 1}/{options.rounds} {who}: {outcome.rounds[-1].per_second:,.0f}/s{faults}")
    return outcomes


async def _run_once(served: ContenderProcess, outcome: Outcome, seconds: int) -> None:
    before = await asyncio.to_thread(_sold, served)
    measured = [await _play(served, outcome, WARM_UP_S), await _play(served, outcome, seconds)]
    outcome.rounds.append(measured[-1])
    if wrong := sum(one.wrong for one in measured):
        outcome.faults.append(f"{wrong} answers were none, or of another status")
    if not measured[-1].answers:
        outcome.faults.append("nothing was answered")
    # What wrk left under way is done, too.
    acknowledged, under_way = sum(one.commits for one in measured), outcome.case.clients * len(measured)
    await asyncio.sleep(_QUIET_S)
    sold = await asyncio.to_thread(_sold, served) - before
    if not acknowledged <= sold <= acknowledged + under_way:
        outcome.faults.append(f"{acknowledged} commits were acknowledged, and {sold} units were sold")


async def _play(served: ContenderProcess, outcome: Outcome, seconds: int) -> LoadResult:
    file, first = str(outcome.case.requests), str(outcome.played)
    measured = await play(served.url, _SCRIPT, (file, first), seconds=seconds, connections=outcome.case.clients)
    outcome.played += measured.answers
    return measured


def _sold(served: ContenderProcess) -> int:
    """Return the units that have left the stock, one by one. Raises ``RuntimeError`` if the ledger has not as many sales."""
    [(stock, sales)] = served.rows(_SALES)
    if not isinstance(stock, int) or PRODUCTS * STOCK - stock != sales:
        raise RuntimeError(f"{served.contender.label} has {stock} units and {sales} sales of one unit")
    return PRODUCTS * STOCK - stock


def _key(case: Case) -> Key:
    return case.workload, case.clients, case.contender


def _row(outcome: Outcome, found: dict[Key, Outcome]) -> dict[str, Cell]:
    case = outcome.case
    few, peer = found.get((str(OPEN[0]), case.clients, case.contender)), found.get((case.workload, case.clients, TEXTBOOK))
    return {
        "contender": case.contender.label,
        "open_holds": case.workload,
        "clients": case.clients,
        "per_s": outcome.rate and round(outcome.rate),
        "p50_ms": outcome.latency(lambda measured: measured.p50_ms),
        "p99_ms": outcome.latency(lambda measured: measured.p99_ms),
        "time over that with 10": format_ratio(_flat(few, outcome)),
        "over the textbook": format_ratio(ratio(outcome, peer)) if peer is not None and case.contender is LARDER else None,
        "counts": "yes" if not outcome.faults else f"NO: {outcome.faults[0]}",
    }


def _flat(few: Outcome | None, many: Outcome) -> Ratio | None:
    """Return how many times longer a hold takes."""
    return None if few is None else ratio(few, many)


def _targets(found: dict[Key, Outcome]) -> list[Target]:
    few, many = (found[str(number), CONNECTIONS, LARDER] for number in (OPEN[0], OPEN[-1]))
    flat = ratio(few, many)

    def over_textbook(workload: str, clients: int = CONNECTIONS) -> Ratio | None:
        return ratio(found[workload, clients, LARDER], found[workload, clients, TEXTBOOK])

    return [
        Target(
            "create and commit of a hold, 100,000 open against 10",
            f"≤ {FLAT:g}×",
            format_ratio(flat) or "does not count: see the table",
            passed=flat is not None and flat.middle <= FLAT,
        ),
        at_least("the same with 10,000 open, over the textbook", 10, over_textbook("10000")),
        *(at_least(f"the same by {crowd} clients", 10, over_textbook("10000", crowd)) for crowd in CROWDS),
        at_least("the same on random products, over the textbook", 3, over_textbook(RANDOM)),
    ]


def main() -> int:
    """Measure, write the result and print it; the exit status. A missed target is a result like any other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady.holds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=1, help="of each measured run, whole ones (%(default)s)")
    parser.add_argument("--full", action="store_true", help="also what holds do to reads and to others who want the units")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        print("This needs wrk (a package of that name in Debian and others).", file=sys.stderr)
        return 1
    result = asyncio.run(measure(Options(given.rounds, given.seconds, given.full)))
    path = write(result)
    say(f"\n{result.title}\n\n{markdown(result.rows)}\n")
    for note in result.notes:
        say(f"- {note}")
    for target in result.targets:
        say(f"{'pass' if target.passed else 'MISS'}  {target.claim}: {target.measured}, to reach: {target.target}")
    say(f"-> {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
