"""The table of ratios, from rows as the benchmarks recorded them on 2026-11-24. One figure is raised, so that it passes."""

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.ratios import RATIOS, table
from benchmarks.results import Cell, Result, Target

CEILING: dict[str, Cell] = {
    "workload": "GET",
    "contender": "bare ASGI function",
    "of the ceiling": "100% (100% to 100%)",
    "over cashews": "12.7× (11.9 to 12.9)",
}
HITS: dict[str, Cell] = {
    "workload": "GET",
    "contender": "Larder, 1 worker",
    "of the ceiling": "79% (72% to 83%)",
    "over cashews": "11.2× (9.27 to 12.5)",
}
HALF_OF_PEAK = Target(
    "p99 of a cached GET at half of our own peak rate, of the bare ASGI function's at the same rate",
    "<= 2x",
    "1.40x (0.42-3.10x) at 14,053/s",
    passed=True,
)
UNCOUNTED: dict[str, Cell] = {"workload": "PUT stock, random", "contender": "FastAPI + cashews", "Larder is": None}
TRIPS: list[dict[str, Cell]] = [
    {"operation": "miss, filled", "redis_round_trips": 3.0},
    {"operation": "write, slot filled", "lease_scripts": 0.793},
]
HOLDS: list[dict[str, Cell]] = [
    {"contender": "Larder, 1 worker", "open_holds": "10", "time over that with 10": "1× (1 to 1)"},
    {"contender": "Larder, 1 worker", "open_holds": "100000", "time over that with 10": "1.01× (0.98 to 1.04)"},
]
RECORDED: Mapping[str, Result] = {
    "reads": Result("reads", "Cached reads", [CEILING, HITS, HITS | {"workload": "GET, 304"}]),
    "latency": Result("latency", "Latency", [], [HALF_OF_PEAK]),
    "writes": Result("writes", "Writes", [UNCOUNTED]),
    "components": Result("components", "Components", TRIPS),
    "holds": Result("holds", "Holds", HOLDS),
}
RAN = ("reads", "latency", "writes", "components", "holds")


def rows(results: Mapping[str, Result], ran: tuple[str, ...] = RAN) -> dict[str, tuple[str, str]]:
    """Each ratio's verdict and measured figure, by its claim."""
    cells = [line.strip("| ").split(" | ") for line in table(results, ran).splitlines()[2:]]
    return {claim: (verdict, measured) for verdict, claim, _, measured in cells}


def test_pass_and_miss() -> None:
    """A figure is judged by its median, in the direction of its target."""
    found = rows(RECORDED)
    assert found["cached GET, 1 worker, of the ceiling"] == ("MISS", "79% (72% to 83%)")
    assert found["the same over FastAPI + cashews"] == ("pass", "11.2× (9.27 to 12.5)")
    assert found["p99 of a cached GET at half of our peak, of the bare function's"][0] == "pass"
    assert found["create and commit of a hold, 100,000 open against 10"] == ("pass", "1.01× (0.98 to 1.04)")
    assert found["Redis round trips that a cold read awaits"] == ("MISS", "3.0")
    assert found["lease round trips before a write whose slot is filled"] == ("MISS", "0.793")


def test_what_was_not_measured() -> None:
    """A row without a figure has no verdict and says why: not this run, or a measurement that does not count."""
    found = rows(RECORDED)
    assert len(found) == len(RATIOS)
    assert found["YCSB A over cashews"] == ("-", "not measured in this run (ycsb)")
    assert found["loop blocked by any one request"] == ("-", "not measured in this run (blocked)")
    assert found["PUT stock, random, with ledger, over cashews without"] == ("-", "does not count: see writes")
    assert {verdict for verdict, _ in rows(RECORDED, ()).values()} == {"-"}
    slow = replace(HALF_OF_PEAK, measured=f"{HALF_OF_PEAK.measured}, but not every round had its rate and 200s only")
    missed = dict(RECORDED) | {"latency": replace(RECORDED["latency"], targets=[slow])}
    assert rows(missed)["p99 of a cached GET at half of our peak, of the bare function's"][0] == "-"


def test_limits() -> None:
    """A figure that is exactly the target passes."""
    exact: list[dict[str, Cell]] = [
        {"operation": "miss, filled", "redis_round_trips": 2.0},
        {"operation": "write, slot filled", "lease_scripts": 0.0},
    ]
    found = rows(dict(RECORDED) | {"components": replace(RECORDED["components"], rows=exact)})
    assert found["Redis round trips that a cold read awaits"][0] == "pass"
    assert found["lease round trips before a write whose slot is filled"][0] == "pass"
