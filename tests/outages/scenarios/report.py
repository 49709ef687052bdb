"""The report of a scenario: a table of figures, in which promised ones are compared with their bounds."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from tests.harness.checker import Read, Verdict, Write, check
from tests.harness.cluster import Cluster

_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. ``promised`` is empty if nothing is promised about the figure."""

    text: str
    value: str
    promised: str = ""
    kept: bool = True


class Report:
    """Collects figures; ``broken`` are those that are not as promised."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.examples: list[str] = []

    @property
    def broken(self) -> list[Figure]:
        """The figures that are not as promised."""
        return [figure for figure in self.figures if not figure.kept]

    def tell(self, text: str, value: object) -> None:
        """Add a figure about which nothing is promised."""
        self.figures.append(Figure(text, _text(value)))

    def demand(self, text: str, value: object, promised: str, *, kept: bool) -> None:
        """Add a figure and its promised value."""
        self.figures.append(Figure(text, _text(value), promised, kept))

    def at_most(self, text: str, value: float, bound: float) -> None:
        """Add a figure that must not exceed a bound."""
        self.demand(text, value, f"<= {_text(bound)}", kept=value <= bound)

    def at_least(self, text: str, value: float, bound: float) -> None:
        """Add a figure that must reach a bound."""
        self.demand(text, value, f">= {_text(bound)}", kept=value >= bound)

    def none(self, text: str, found: Sequence[object]) -> None:
        """Add a count that must be 0, with some examples."""
        self.at_most(text, len(found), 0)
        self.examples += [f"{text}: {one}" for one in found[:_EXAMPLES]]

    def no_stale_reads(self, whose: str, reads: Iterable[Read], writes: Iterable[Write]) -> Verdict:
        """Check reads with ``tests.harness.checker``: none may show old data."""
        verdict = check(reads, writes)
        self.tell(f"reads checked, {whose}", verdict.checked)
        self.tell(f"of them bound by an acknowledged write, {whose}", verdict.bound)
        self.none(f"stale reads, {whose}", verdict.violations)
        return verdict

    def seconds_of_writes(self, text: str, taken: Collection[float], longest_s: float) -> None:
        """Add the median and the longest of the times that writes took; the longest is promised."""
        self.tell(f"seconds of a write{text}, p50", percentile(taken, 50))
        self.at_most(f"seconds of a write{text}, longest", max(taken, default=99.0), longest_s)

    def table(self) -> str:
        """Return the report as text."""
        lines = [f"{'':<72} {'found':>10}  promised"]
        for figure in self.figures:
            mark = "" if figure.kept else "  BROKEN"
            lines.append(f"{figure.text:<72} {figure.value:>10}  {figure.promised}{mark}".rstrip())
        return "\n".join([*lines, *(f"  {example}" for example in self.examples)])


def share(part: int, whole: int) -> float:
    """Return a share in percent, or 0 if the whole is 0."""
    return 100 * part / whole if whole else 0.0


def hits(reads: Collection[Read]) -> float:
    """Return the share of hits in percent."""
    return share(sum(read.status == "hit" for read in reads), len(reads))


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the value that ``percent`` of the values do not exceed, or 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


async def entries_in_ledger(cluster: Cluster, prefix: str) -> Counter[str]:
    """Return how many entries of the ledger each reference has that begins so."""
    async with await cluster.session() as session:
        found = await session.execute("SELECT reference FROM stock_movements WHERE starts_with(reference, %s)", [prefix])
        return Counter([str(reference) for (reference,) in await found.fetchall()])


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value)
