"""The history of what the clients saw, on one monotonic clock, and the rules that it must keep.

Reads and writes are the checker's classes plus the instance that answered. A product's name begins with the number of its epoch
(``e0 …``), so that every answer shows its epoch. Each write carries a mark, a number never used before, as stock or as price:
if the mark of a refused write is ever read, the write was applied.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace

from tests.harness import stalls
from tests.harness.checker import Read, Verdict, Write, check
from tests.harness.client import Answer
from tests.harness.cluster import AUDIT_INTERVAL_S, FENCE_TTL_S
from tests.harness.faultlog import Fault, FaultLog

_ROW = re.compile(
    rb'\{"id":"([^"]+)","name":"e(\d+)[^"]*",'
    rb'(?:"price_cents":(\d+),"stock":(\d+),"reorder_point":\d+|"terms":(\d+)),"version":(\d+)[,}]'
)
BLAME_S = 2.5
"""Seconds after a fault of PostgreSQL or of the service during which a failed request is attributed to it."""


@dataclass(frozen=True, slots=True)
class State:
    """A product as an answer showed it, or a supplier, whose terms stand for a stock."""

    key: str
    epoch_order: int
    price_cents: int
    stock: int
    version: int


@dataclass(frozen=True, slots=True)
class SeenRead(Read):
    """A read, with the instance that answered and the kind of request."""

    instance: int = -1
    kind: str = ""


@dataclass(frozen=True, slots=True)
class SeenWrite(Write):
    """A write, with the instance that answered, the kind of request and the answer."""

    instance: int = -1
    kind: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that was not served."""

    called: float
    returned: float
    instance: int
    kind: str
    answer: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ByHand:
    """A change made by SQL. It must be visible some time after its commit, see ``History.judge``."""

    write: SeenWrite
    committed: float


@dataclass(slots=True)
class Judgement:
    """The result of checking a part of the history. Each entry of ``violations`` is a sentence."""

    verdict: Verdict
    violations: list[str] = field(default_factory=list)
    excerpt: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Bounds:
    """When a change made by hand must be seen: without faults, and during faults (the fence's lifetime decides then)."""

    quiet_s: float
    faulty_s: float


HAND_BOUNDS = Bounds(quiet_s=2 * AUDIT_INTERVAL_S, faulty_s=FENCE_TTL_S + 0.2)
"""Without faults: two intervals. With faults: the fence's lifetime."""


class History:
    """Collects operations; ``judge`` checks those since the last call.

    Args:
        faults: faults during which failures are allowed.
        bounds: limits for hand-made changes.
        epochs: epochs allowed in names; ``None`` allows any.
    """

    def __init__(self, faults: FaultLog, bounds: Bounds, *, epochs: Collection[int] | None = None) -> None:
        self.reads: list[SeenRead] = []
        self.writes: list[SeenWrite] = []
        self.failures: list[Failure] = []
        self.by_hand: list[ByHand] = []
        self.counts: Counter[str] = Counter()
        self._faults = faults
        self._bounds = bounds
        self._epochs = epochs
        self._bodies: dict[tuple[str, int, int], State] = {}
        self._refused: dict[tuple[str, int], SeenWrite] = {}
        self._contradictions: list[str] = []

    def states(self, answer: Answer) -> list[State]:
        """Return all products of an answer, after comparing each with what was seen of the same version before."""
        found = []
        for key, epoch, price, stock, terms, version in _ROW.findall(answer.body):
            state = State(key.decode(), int(epoch), int(price or 0), int(stock or terms), int(version))
            known = self._bodies.setdefault((state.key, state.epoch_order, state.version), state)
            if self._epochs is not None and state.epoch_order not in self._epochs:
                self._contradictions.append(f"a product of another database: {state}")
            if known != state:
                self._contradictions.append(f"one version, two contents: {known} and {state}")
            found.append(state)
        return found

    def refused(self, write: SeenWrite, mark: int) -> None:
        """Record that a write was answered with "nothing was changed"."""
        self.writes.append(write)
        self._refused[write.key, mark] = write

    def judge(self) -> Judgement:
        """Judge everything since ``forget``. Call it while no request is under way."""
        self.writes += [self._bound(change) for change in self.by_hand]
        self.by_hand.clear()
        verdict = check(self.reads, self.writes)
        judgement = Judgement(verdict)
        judgement.violations += [f"G1: {violation}" for violation in verdict.violations]
        judgement.violations += [f"G2: {text}" for text in self._contradictions]
        for state in self._bodies.values():
            for mark in (state.stock, state.price_cents):
                if (write := self._refused.get((state.key, mark))) is not None:
                    judgement.violations.append(f"G2: {write} was refused, and yet read: {state}")
        judgement.violations += [
            f"G3: failed without a fault of PostgreSQL or of a service: {failure}"
            for failure in self.failures
            if not self._excused(failure)
        ]
        if verdict.violations:
            first = verdict.violations[0]
            judgement.excerpt = self._excerpt(first.read.key, first.missed.called - 3.0, first.read.returned + 0.2)
        self._count(verdict)
        return judgement

    def forget(self) -> None:
        """Forget judged reads and failures; keep the writes."""
        self.reads.clear()
        self.failures.clear()
        self._contradictions.clear()

    def _excused(self, failure: Failure) -> bool:
        """Return whether PostgreSQL, a service, a lock on the product or a stall of the machine caused the failure.

        For a write, the fault may be at another instance: a transaction that hangs there holds its locks. Every change of a
        stock needs the ledger, and other writes share its transaction.
        """
        since, until = failure.called - BLAME_S, failure.returned
        if self._faults.overlapping((stalls.LAYER,), None, since, until):
            return True
        if "of suppliers" in failure.kind and self._faults.overlapping(("suppliers",), None, since, until):
            return True
        if failure.kind.startswith("read"):
            return self._faults.overlapping(("postgres", "service"), failure.instance, since, until)
        held = "overloaded" in failure.answer and self._faults.holding(failure.keys, since, until)
        return held or self._faults.overlapping(("postgres", "service", "ledger"), None, since, until)

    def _bound(self, change: ByHand) -> SeenWrite:
        committed = change.committed
        faulty = self._faults.overlapping(
            ("redis", "postgres", "service"), None, committed - 1.0, committed + self._bounds.quiet_s
        )
        wait_s = self._bounds.faulty_s if faulty else self._bounds.quiet_s
        self.counts["changes by hand bound by the fence" if faulty else "changes by hand bound by the audit"] += 1
        return replace(change.write, returned=committed + wait_s)

    def _count(self, verdict: Verdict) -> None:
        self.counts["reads checked"] += verdict.checked
        for namespace, number in verdict.checked_of.items():
            self.counts[f"reads checked of {namespace}"] += number
        self.counts["of them bound by an acknowledged write"] += verdict.bound
        self.counts["unflagged hits"] += verdict.hits
        self.counts["flagged reads (not checked)"] += verdict.flagged
        for failure in self.failures:
            self.counts[f"{'reads' if failure.kind.startswith('read') else 'writes'} not served"] += 1

    def _excerpt(self, key: str, since: float, until: float) -> list[str]:
        """Return a line for each operation on one key, in the order of the calls, with times relative to ``since``."""
        operations: list[SeenRead | SeenWrite] = [*self.reads, *self.writes]
        lines = [
            (operation.called, _line(operation, since))
            for operation in operations
            if operation.key == key and operation.returned >= since and operation.called <= until
        ]
        lines += [
            (fault.began, fault.line(since))
            for fault in self._faults.all
            if (fault.ended or until) >= since and fault.began <= until
        ]
        return [text for _, text in sorted(lines)]

    def dump(self) -> Sequence[dict[str, object]]:
        """Return everything that is still kept, as plain values."""
        kept: list[SeenRead | SeenWrite | Failure | Fault] = [*self.reads, *self.writes, *self.failures, *self._faults.all]
        return [{"what": type(entry).__name__, **asdict(entry)} for entry in kept]


def _line(operation: SeenRead | SeenWrite, since: float) -> str:
    times = f"{operation.called - since:9.4f} … {operation.returned - since:9.4f}"
    state = f"e{operation.epoch_order} v{operation.version}"
    if isinstance(operation, SeenRead):
        return f"{times}  instance {operation.instance}  {operation.kind}: {state} ({operation.status})"
    outcome = "acknowledged" if operation.acknowledged else f"not acknowledged ({operation.answer})"
    return f"{times}  instance {operation.instance}  {operation.kind} {outcome}: {state}{' deleted' * operation.deleted}"
