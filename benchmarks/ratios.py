"""The ratios that the project wants to reach, each taken from one run's own results."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from benchmarks.results import Cell, Result
from benchmarks.tables import markdown

Finding = str | int | float | None
"""A figure, or a cell that begins with one (``79% (72% to 83%)``); ``None`` if there is none that counts."""
_FIGURE = re.compile(r"[0-9][0-9,]*(?:\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure to reach.

    Attributes:
        claim: what is compared.
        limit: the figure to reach, in ``unit``.
        unit: what stands behind the figure.
        result: the result that has it.
        find: takes the figure from that result.
        at_least: whether more is better.
        digits: digits behind the point that count. The background makes a few round trips in a thousand.
    """

    claim: str
    limit: float
    unit: str
    result: str
    find: Callable[[Result], Finding]
    at_least: bool = True
    digits: int = 6


def _cell(column: str, **wanted: Cell) -> Callable[[Result], Finding]:
    """Return what takes ``column`` from the only row that has the ``wanted`` cells."""

    def find(result: Result) -> Finding:
        rows = [row for row in result.rows if all(row.get(name) == cell for name, cell in wanted.items())]
        found = rows[0].get(column) if len(rows) == 1 else None
        return found if isinstance(found, str | int | float) else None

    return find


def _target(beginning: str) -> Callable[[Result], Finding]:
    """Return what takes the figure of the target whose claim begins so. One that does not count says "but" and why."""

    def find(result: Result) -> Finding:
        measured = [target.measured for target in result.targets if target.claim.startswith(beginning)]
        return measured[0] if len(measured) == 1 and ", but " not in measured[0] else None

    return find


_LARDER, _CASHEWS, _TEXTBOOK = "Larder, 1 worker", "FastAPI + cashews", "textbook: threads, SQLAlchemy ORM, redis-py"
RATIOS = (
    Ratio("cached GET, 1 worker, of the ceiling", 85, "%", "reads", _cell("of the ceiling", workload="GET", contender=_LARDER)),
    Ratio("the same over FastAPI + cashews", 11, "×", "reads", _cell("over cashews", workload="GET", contender=_LARDER)),
    Ratio("the same with an API key, of without", 97, "%", "reads", _target("cached GET with an API key")),
    Ratio(
        "p99 of a cached GET at half of our peak, of the bare function's", 1.5, "×",
        "latency", _target("p99 of a cached GET at half of our own peak"), at_least=False,
    ),
    Ratio(
        "PUT stock, random, with ledger, over cashews without", 4, "×",
        "writes", _cell("Larder is", workload="PUT stock, random", contender=_CASHEWS),
    ),
    Ratio(
        "adjustments of one hot product over the textbook", 13, "×",
        "writes", _cell("Larder is", workload="adjust, one hot product", contender=_TEXTBOOK),
    ),
    Ratio("recorded night in a Redis of 4 MB, over cashews", 8, "×", "trace", _cell("Larder is", contender=_CASHEWS)),
    Ratio(
        "YCSB A over cashews", 5.5, "×",
        "ycsb", _cell("Larder is", workload="A: 50 % reads, 50 % updates", contender=_CASHEWS),
    ),
    Ratio(
        "YCSB B over cashews", 8, "×",
        "ycsb", _cell("Larder is", workload="B: 95 % reads, 5 % updates", contender=_CASHEWS),
    ),
    Ratio(
        "Redis round trips that a cold read awaits", 2, "",
        "components", _cell("redis_round_trips", operation="miss, filled"), at_least=False, digits=2,
    ),
    Ratio(
        "lease round trips before a write whose slot is filled", 0, "",
        "components", _cell("lease_scripts", operation="write, slot filled"), at_least=False, digits=2,
    ),
    Ratio("loop blocked by any one request", 50, " ms", "blocked", _target("loop blocked"), at_least=False),
    Ratio("hits again after Redis answers", 2.5, " s", "healing", _target("hits again after Redis"), at_least=False),
    Ratio(
        "hits again after a new master or primary is named", 3.5, " s",
        "healing", _target("hits again after a new master"), at_least=False,
    ),
    Ratio(
        "create and commit of a hold, 100,000 open against 10", 1.25, "×",
        "holds", _cell("time over that with 10", open_holds="100000", contender=_LARDER), at_least=False,
    ),
)  # fmt: skip


def table(results: Mapping[str, Result], ran: Collection[str]) -> str:
    """Write the ratios as a table in Markdown: target, result, and pass or MISS.

    Args:
        results: every result that there is, by name.
        ran: the names of those that this run measured. The others may be of another day and count for nothing here.
    """
    return markdown([_row(ratio, results.get(ratio.result) if ratio.result in ran else None) for ratio in RATIOS])


def _row(ratio: Ratio, result: Result | None) -> dict[str, Cell]:
    target = f"{'≥' if ratio.at_least else '≤'} {ratio.limit:g}{ratio.unit}"
    if result is None:
        return {"": "-", "ratio": ratio.claim, "to reach": target, "measured": f"not measured in this run ({ratio.result})"}
    found = ratio.find(result)
    figure = _FIGURE.match(str(found))
    if found is None or figure is None:
        return {"": "-", "ratio": ratio.claim, "to reach": target, "measured": f"does not count: see {ratio.result}"}
    value = round(float(figure[0].replace(",", "")), ratio.digits)
    passed = value >= ratio.limit if ratio.at_least else value <= ratio.limit
    return {"": "pass" if passed else "MISS", "ratio": ratio.claim, "to reach": target, "measured": str(found)}
