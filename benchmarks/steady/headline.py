"""``python -m benchmarks.steady.headline``: 10,000 reads/s and 100 writes/s for 60 s, and what PostgreSQL is asked meanwhile.

10,000 products, all cached before. h2load sends nine tenths of the reads at a constant rate, uniformly over the catalogue; a
client in this process sends the rest and the writes, an open loop: each write (``PUT /products/{id}/stock``, random
product, another stock than before, so with its entry in the ledger) is followed by a read of its product as soon as it is
acknowledged, and 900 reads a second come at moments of their own, half of them of products written just before. These
1,000 reads a second are judged by ``tests/harness/checker.py``: none may show a version older than the newest that was
acknowledged before the read was called.

Latencies count from the moment at which a request was due: see ``pace.py`` for this client and ``h2load.py`` for h2load.
PostgreSQL is looked at twice, the measured seconds apart, in the middle of the load.
"""

import argparse
import asyncio
import gc
import sys
from collections import deque
from dataclasses import asdict, dataclass
from random import Random

from benchmarks import results
from benchmarks.results import Cell, Result, Target
from benchmarks.steady import h2load, statements
from benchmarks.steady.pace import at_rate, clock
from benchmarks.steady.percentiles import latency
from benchmarks.steady.statements import Look
from benchmarks.steady.testbed import larder, product_id, servers, warm
from tests.harness.checker import Read, Verdict, Write, check
from tests.harness.client import Answer, Endpoint, NoAnswerError
from tests.harness.loop import run

PRODUCTS = 10_000
READS, WRITES = 10_000, 100
ALONE = 900
"""Checked reads a second that do not follow a write."""
MARGIN_S = 1.5
"""How long the load lasts before the first look and after the last one."""
ENOUGH = 0.995
"""The share of a rate that must be reached, or the run does not count."""
MOST_TRANSACTIONS = 115.0
MOST_P99_MS = 5.0
EXPECTED = frozenset(
    {"LOCK", "RECORD", "UPDATE", "READ_BACK", "ANNOUNCE", "SNAPSHOT", "CHANGES", "COMPLETE"}
    | {"BEGIN", "COMMIT", "ROLLBACK", "LOCK TABLE", "FETCH", "FORGET", "STANDING", "ADOPT", "SELECT set_config"}
    | statements.BACKGROUND
)
"""Statements of writes (their settling, too), audits, housekeeping, and of opening a connection."""
REPORTED_S = 11.0
"""How long PostgreSQL may take to count the transactions of a connection that has become idle."""


def path(product: str) -> str:
    """Return the path of a product."""
    return f"/products/{product}"


class CheckedClient:
    """A client all of whose answers are judged."""

    def __init__(self, endpoint: Endpoint, chance: Random) -> None:
        self._endpoint = endpoint
        self._chance = chance
        self._written: deque[str] = deque(maxlen=100)
        self._stock = 1_000
        self.reads: list[Read] = []
        self.writes: list[Write] = []
        self.read_s: list[float] = []
        self.write_s: list[float] = []
        self.failed = 0

    async def write(self, meant: float) -> None:
        """Count a random product, then read it."""
        product = product_id(self._chance.randrange(PRODUCTS))
        self._stock += 1
        called = clock()
        answer = await self._ask("PUT", path(product) + "/stock", b'{"stock":%d}' % self._stock)
        returned = clock()
        self.write_s.append(returned - meant)
        version = version_of(answer) if answer else None
        self.writes.append(Write(product, called, returned, version, acknowledged=answer is not None))
        self._written.append(product)
        await self._read(product, returned)

    async def read(self, meant: float) -> None:
        """Read a product that was written just before, or any."""
        recent = self._written and self._chance.random() < 0.5
        await self._read(self._chance.choice(self._written) if recent else product_id(self._chance.randrange(PRODUCTS)), meant)

    async def _read(self, product: str, meant: float) -> None:
        called = clock()
        answer = await self._ask("GET", path(product))
        returned = clock()
        self.read_s.append(returned - meant)
        if answer is None:
            return
        status = answer.header(b"cache-status")
        kind = "hit" if status == "larder; hit" else status
        self.reads.append(Read(product, called, returned, version_of(answer), "unverified" in status, kind))

    async def _ask(self, method: str, path: str, body: bytes = b"") -> Answer | None:
        """Return the answer. If there is none, or none of status 200, count a failure and return ``None``."""
        try:
            answer = await self._endpoint.request(method, path, body=body)
        except NoAnswerError:
            answer = None
        if answer is None or answer.status != 200:
            self.failed += 1
            return None
        return answer


def version_of(answer: Answer) -> int:
    """Return the version in an answer's tag."""
    return int(answer.header(b"etag").strip('"'))


async def measure(seconds: float, chance: Random) -> list[Result]:
    """Run the load, and return the latencies with the targets, and the statements."""
    paths = [path(product_id(number)) for number in range(PRODUCTS)]
    async with servers() as started:
        await started.fill(PRODUCTS)
        async with larder(started) as service:
            await warm(service.endpoint, paths)
            await asyncio.sleep(REPORTED_S)  # otherwise transactions of the warm-up would be counted as those of the run
            client = CheckedClient(service.endpoint, chance)
            load = h2load.Load(READS - WRITES - ALONE, seconds + 2 * MARGIN_S)
            whole_s = seconds + 2 * (MARGIN_S + load.opening_s)
            uniform = chance.choices(paths, k=2 * PRODUCTS + 11)
            gc.freeze()
            gc.disable()  # a collection of what this client has seen would be counted as the service's latency
            async with asyncio.TaskGroup() as group:
                bulk = group.create_task(h2load.run(service.url, uniform, load, started.directory))
                alone = group.create_task(at_rate(ALONE, whole_s, client.read))
                writing = group.create_task(at_rate(WRITES, whole_s, client.write))
                await asyncio.sleep(load.opening_s + MARGIN_S)
                before, began = await statements.look(started.postgres), clock()
                await asyncio.sleep(seconds)
                after, ended = await statements.look(started.postgres), clock()
            gc.enable()
            repaired = await _repaired(service.endpoint)
    rates = [paced.begun / max(paced.seconds, whole_s) for paced in (alone.result(), writing.result())]
    record = RunRecord(bulk.result(), client, after.since(before), ended - began, sum(rates), rates[1], repaired)
    return [_latencies(record, check(client.reads, client.writes)), _statements(record)]


async def _repaired(endpoint: Endpoint) -> str:
    """Return the service's counts of slots that audits deleted. Each of them costs a reader a load."""
    told = (await endpoint.request("GET", "/metrics")).body.decode()
    found = [line for line in told.splitlines() if line.startswith("larder_cache_repairs_total{")]
    return ", ".join(line.removeprefix("larder_cache_repairs_total") for line in found)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The results of a run: PostgreSQL's work in ``seconds``, and the rates at which this client's requests were begun."""

    bulk: h2load.Run
    client: CheckedClient
    done: Look
    seconds: float
    checked_rate: float
    write_rate: float
    repaired: str

    @property
    def read_rate(self) -> float:
        """The reads in a second of both clients together."""
        return self.bulk.rate + self.checked_rate

    @property
    def refused(self) -> int:
        """The number of answers other than 200."""
        return self.client.failed + sum(count for status, count in self.bulk.statuses.items() if status != 200)

    @property
    def achieved(self) -> bool:
        """Whether the intended rate was reached with no other answers than 200."""
        return self.read_rate >= ENOUGH * READS and self.write_rate >= ENOUGH * WRITES and not self.refused

    @property
    def rates(self) -> str:
        """The rates as text."""
        return f"{self.read_rate:,.0f} reads/s and {self.write_rate:.1f} writes/s"


def _latencies(record: RunRecord, verdict: Verdict) -> Result:
    bulk, client, done = record.bulk, record.client, record.done
    reads = sorted([*bulk.latencies_s, *client.read_s])
    rows = [
        _row("reads, bulk", bulk.rate, bulk.latencies_s),
        _row("reads, checked", record.checked_rate, sorted(client.read_s)),
        _row("reads, all", record.read_rate, reads),
        _row("writes", record.write_rate, sorted(client.write_s)),
    ]
    added = f"{bulk.added:,} of {len(bulk.latencies_s):,} latencies of h2load's were added for what waited unsent"
    transactions = f"{done.explained / record.seconds:.1f}/s ({done.writes} writes', {done.audits} audits', {done.loads} loads)"
    notes = [
        f"{added}; its sending fell behind by {1_000 * bulk.late_s:.0f} ms at most.",
        f"Checked reads by what answered: {', '.join(f'{kind}: {count:,}' for kind, count in verdict.statuses.most_common())}.",
        f"Transactions, as the statements tell them: {transactions} in {record.seconds:.1f} s.",
        f"Slots that audits deleted, from the service's start to its end: {record.repaired}.",
        *map(str, verdict.violations[:10]),
    ]
    return Result("headline", "10,000 reads/s and 100 writes/s", rows, _targets(record, verdict, latency(reads).p99_ms), notes)


def _targets(record: RunRecord, verdict: Verdict, p99_ms: float) -> list[Target]:
    done, achieved = record.done, record.achieved
    unexpected = {name: calls for name, calls in done.calls.items() if name not in EXPECTED}
    others = f"{sum(unexpected.values())} calls of other statements than writes' and audits' {', '.join(unexpected)}".rstrip()
    transactions = done.transactions / record.seconds
    stale = f"{len(verdict.violations)} of {verdict.checked:,} checked ({verdict.bound:,} of products written before)"
    return [
        Target(
            "headline: the rate was achieved, every answer a 200",
            f"{READS:,} reads/s and {WRITES} writes/s",
            f"{record.rates}; {record.refused} other answers",
            achieved,
        ),
        Target(
            "headline: PostgreSQL statements caused by reads",
            "0",
            f"{done.loads} loads, {others}, at {record.rates}",
            achieved and not done.loads and not unexpected,
        ),
        Target(
            "headline: PostgreSQL transactions/s in all, audit included",
            f"<= {MOST_TRANSACTIONS:g}",
            f"{transactions:.1f} at {record.rates}",
            achieved and transactions <= MOST_TRANSACTIONS,
        ),
        Target(
            "headline: stale reads",
            "0",
            stale,
            achieved and not verdict.violations and verdict.bound > 0 and not verdict.flagged,
        ),
        Target(
            "headline: p99 of reads",
            f"<= {MOST_P99_MS:g} ms",
            f"{p99_ms:.2f} ms at {record.rates}",
            achieved and p99_ms <= MOST_P99_MS,
        ),
    ]


def _row(requests: str, rate: float, ordered_s: list[float]) -> dict[str, Cell]:
    return {"requests": requests, "per_s": round(rate, 1), "count": len(ordered_s), **asdict(latency(ordered_s))}


def _statements(record: RunRecord) -> Result:
    rows: list[dict[str, Cell]] = [
        {"statement": name, "where": where, "calls": calls, "per_s": round(calls / record.seconds, 2)}
        for where, found in (("top level", record.done.calls), ("inside of functions", record.done.nested))
        for name, calls in found.most_common()
    ]
    notes = [
        "Names are those of app/products/queries.py and app/cache/postgres/table_queries.py.",
        "LOAD and CHANGES are made by functions of those names.",
        "DECLARE (CHANGES) is counted twice, as a command and as its query; BEGIN, COMMIT and FETCH, once prepared, never.",
    ]
    return Result("headline_statements", "Statements of PostgreSQL at 10,000 reads/s and 100 writes/s", rows, (), notes)


def main() -> int:
    """Measure, write the results, and return 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady.headline")
    parser.add_argument("--seconds", type=float, default=60.0, help="between the two looks (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    found = run(measure(arguments.seconds, Random(arguments.seed)))
    missed = False
    for result in found:
        results.write(result)
        for target in result.targets:
            print(f"{'pass' if target.passed else 'MISS'}  {target.claim}: {target.measured} (target: {target.target})")
            missed = missed or not target.passed
        for note in result.notes:
            print(f"      {note}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
