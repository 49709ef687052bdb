"""``python -m benchmarks.strategies``: which write policy a workload justifies.

The workload is a mix (``--reads``, ``--keys``, ``--zipf``, ``--writes``), or that of a running service: its share of reads and
its payload from two scrapes of ``/metrics``, or its whole order from an access log. It is run under each policy, in
alternated rounds on private servers, at saturation and then at ``--rate``.
The last line says: keep ``through``, or change to what, and why.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from app.cache.policies import WritePolicy
from benchmarks.strategies.measure import Run, Workload, measure, milliseconds
from benchmarks.strategies.mixes import Mix, drawn, logged, read_between_writes
from benchmarks.strategies.scrapes import Scrape, Traffic
from benchmarks.strategies.verdict import DEFAULT, RESOURCES, Round, scarcest, sentence
from benchmarks.tables import markdown
from tests.harness import loop


def main() -> int:
    """Run what was asked for and print the table and the sentence."""
    given = _parser().parse_args()
    try:
        workload = _workload(given)
    except (OSError, ValueError) as error:
        print(f"benchmarks.strategies: {error}", file=sys.stderr)
        return 2
    print(workload.mix.words)
    if (share := read_between_writes(workload.mix.steps)) is not None:
        print(f"{100 * share:.0f} % of the writes are read before their product's next write")
    policies = list(dict.fromkeys([DEFAULT, *given.policies]))
    runs = loop.run(_rounds(policies, workload, given.rounds))
    rounds = [_round(run, given.redis_mbit) for run in runs]
    resource = given.scarce or scarcest(rounds)
    share_of = [one.share[resource] for one in rounds if one.policy == DEFAULT]
    print(markdown([_row(policy, [run for run in runs if run.policy == policy]) for policy in policies]))
    print(f"Scarcest: {RESOURCES[resource]}, {100 * sum(share_of) / len(share_of):.1f} % of its limit under `{DEFAULT}`.")
    print(sentence(rounds, resource))
    return 0


async def _rounds(policies: Sequence[str], workload: Workload, rounds: int) -> list[Run]:
    runs = []
    for number in range(rounds):
        first = number % len(policies)
        for policy in (*policies[first:], *policies[:first]):
            run = await measure(policy, workload)
            print(f"round {number + 1}, {policy}: {run.requests / run.took_s:,.0f} requests/s", file=sys.stderr, flush=True)
            runs.append(run)
    return sorted(runs, key=lambda run: policies.index(run.policy))


def _round(run: Run, redis_mbit: float) -> Round:
    cores = os.cpu_count() or 1
    return Round(
        run.policy,
        run.hit_ratio,
        used={"cpu": run.cpu_s / run.requests, "memory": run.redis_memory, "bytes": run.redis_bytes / run.requests},
        share={
            "cpu": run.cpu_s / run.took_s / cores,
            "memory": run.redis_memory / run.redis_limit,
            "bytes": run.redis_bytes * 8 / run.took_s / (redis_mbit * 1e6),
        },
        checked=run.checked,
        stale=run.stale,
        lost=run.lost,
    )


def _row(policy: str, runs: Sequence[Run]) -> dict[str, int | float | str | None]:
    """Return the table's row: sums of counts and means of ratios over all rounds, latencies of all rounds together."""
    requests, took_s = sum(run.requests for run in runs), sum(run.took_s for run in runs)
    writes = sum(run.writes for run in runs)
    reads_s = sorted(second for run in runs for second in run.read_s)
    writes_s = sorted(second for run in runs for second in run.write_s)
    return {
        "policy": policy,
        "hit": sum(run.hit_ratio for run in runs) / len(runs),
        "PG stmts/s": round(sum(run.statements for run in runs) / took_s),
        "loads/s": round(sum(run.loads for run in runs) / took_s),
        "Redis MB": round(sum(run.redis_memory for run in runs) / len(runs) / 1e6, 2),
        "evicted": sum(run.evicted for run in runs),
        "kB in/write": round(sum(run.redis_bytes for run in runs) / writes / 1e3, 2) if writes else None,
        "CPU µs/request": round(1e6 * sum(run.cpu_s for run in runs) / requests),
        "requests/s": round(requests / took_s),
        "read p50 ms": milliseconds(reads_s, 50),
        "p99": milliseconds(reads_s, 99),
        "write p50 ms": milliseconds(writes_s, 50),
        "p99 ": milliseconds(writes_s, 99),
        "settled": sum(run.settled for run in runs),
        "refused": sum(run.refused for run in runs),
        "acknowledged and lost": sum(run.lost for run in runs),
        "stale": sum(run.stale for run in runs),
        "of checked": sum(run.checked for run in runs),
    }


def _workload(given: argparse.Namespace) -> Workload:
    mix: Mix
    payload, reads = given.payload, given.reads
    if given.log:
        mix = logged(given.log)
    else:
        if given.metrics:
            traffic = Traffic(*(Scrape.of(path.read_text(encoding="utf-8")) for path in given.metrics))
            reads, payload = traffic.reads_of_100, round(traffic.payload or payload)
            print("The service: " + "; ".join(traffic.sentences()))
        mix = drawn(reads, given.keys, given.zipf, cold=given.cold_keys if given.writes == "cold" else 0)
    return Workload(mix, payload, given.redis_memory, given.rate, given.seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.strategies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mix = parser.add_argument_group("the mix")
    mix.add_argument("--reads", type=float, default=50, help="reads in a hundred requests (%(default)s)")
    mix.add_argument("--keys", type=int, default=20_000, help="products that are read (%(default)s)")
    mix.add_argument("--zipf", type=float, default=0.99, help="theta of their popularity (%(default)s)")
    mix.add_argument("--writes", choices=("same", "cold"), default="same", help="which products are written (%(default)s)")
    mix.add_argument("--cold-keys", type=int, default=60_000, help="products that are only written, with cold (%(default)s)")
    mix.add_argument("--payload", type=int, default=450, help="bytes of a product's body, up to about 990 (%(default)s)")
    running = parser.add_argument_group("the workload of a running service").add_mutually_exclusive_group()
    running.add_argument("--metrics", nargs=2, type=Path, metavar=("BEFORE", "AFTER"), help="two saved answers of /metrics")
    running.add_argument("--log", type=Path, help="an access log; ids are hashed while it is read")
    run = parser.add_argument_group("the runs")
    run.add_argument("--redis-memory", default="", metavar="SIZE", help="maxmemory of Redis, such as 4mb (no limit)")
    run.add_argument("--redis-mbit", type=float, default=1_000, help="what the network to Redis carries (%(default)s)")
    run.add_argument("--rate", type=float, default=400, help="requests/s of the second part (%(default)s)")
    run.add_argument("--seconds", type=float, default=10, help="of each part (%(default)s)")
    run.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    run.add_argument("--scarce", choices=tuple(RESOURCES), help="what counts (the one nearest to its limit)")
    known = [policy.value for policy in WritePolicy]
    run.add_argument("--policies", nargs="+", choices=known, default=["update", "aside"], help="beside through (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
