"""The table at the end of a run."""

from collections import Counter
from collections.abc import Iterator

from tests.harness.faults import KINDS
from tests.outages.run import Outcome

_METRICS = {
    "publishes that failed": 'larder_cache_publishes_total{outcome="failed"}',
    "slots deleted by writers": 'larder_cache_publishes_total{outcome="deleted"}',
    "writes that settled": "larder_cache_settles_total",
    "audits finished": "larder_cache_audits_total",
    "audits given up": "larder_cache_audit_failures_total",
    "slots repaired, older": 'larder_cache_repairs_total{cause="older"}',
    "slots repaired, leases": 'larder_cache_repairs_total{cause="lease"}',
    "times the cache started clean": "larder_cache_clean_starts_total",
}


def table(outcome: Outcome) -> str:
    """Return the table as text."""
    return "\n".join(f"{text:<76} {value:>10}" for text, value in _lines(outcome))


def _lines(outcome: Outcome) -> Iterator[tuple[str, str]]:
    counts = outcome.counts
    yield "seed", str(outcome.seed)
    yield "seconds", f"{outcome.seconds:.0f}"
    yield "violations", str(len(outcome.violations))
    for promise, number in sorted(Counter(text.partition(":")[0] for text in outcome.violations).items()):
        yield f"violations: {promise}", str(number)
    for name in sorted(counts):
        yield name, str(counts[name])
    checked = counts["reads checked"]
    yield "share of unflagged hits", f"{counts['unflagged hits'] / checked:.1%}" if checked else "-"
    for text, name in _METRICS.items():
        yield f"services' own count: {text}", str(outcome.metrics[name])
    healing = sorted(outcome.healing_s)
    if healing:
        yield "seconds to trust the cache again, median", f"{healing[len(healing) // 2]:.2f}"
        yield "seconds to trust the cache again, longest", f"{healing[-1]:.2f}"
    for text, seconds in outcome.longest_s.items():
        yield f"longest time {text}, s", f"{seconds:.2f}"
    for kind in KINDS:
        yield f"fault {kind.name}", str(outcome.faults[kind.name])
    yield "stalls of the machine, after which liveness is not judged", str(outcome.faults["machine-stalled"])
