"""Decides whether a recorded history keeps guarantee G1: a read that is not flagged never shows the past.

The same checker is used for the simulation, the outages on real servers and other projects' caches. It depends on none of
them: it gets operations with their call and return times on one clock, and the versions that PostgreSQL gave to the states.

G1 is an interval check. Per key, states are ordered by ``(epoch_order, version)``: versions by PostgreSQL, epochs (the
stretches between a truncation, a restore, a promotion) by the order in which they began. A read must return a state at least
as new as every write to its key that was acknowledged before the read was called. A read may be *ahead*: while a write is
committed but not acknowledged, the states before and after it are both correct, in any order.

G4 is checked in the same way: record a change made by hand as a ``Write`` that is acknowledged one audit interval and the
audit's own duration after its commit.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Read:
    """One finished read. Times are on the history's one clock, in any unit.

    ``version`` is that of the state returned: a row's, a tombstone's, or 0 for a key that never was. ``None`` means that the
    answer was "no such key" and did not say since which version (an HTTP 404). ``status`` is free text for the counters; a
    hit says ``hit``. Reads that failed returned no state: leave them out.
    """

    key: str
    called: float
    returned: float
    version: int | None
    flagged: bool = False
    status: str = ""
    epoch_order: int = 0
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Write:
    """One write, finished or not. ``version`` is that of the state it left, ``None`` where nobody knows.

    ``acknowledged`` is true when the caller was told of success, at ``returned``. A write that failed, was lost, or whose
    outcome is unknown binds no read. ``deleted`` says that it left no row; list unknown deletes too, they explain a later
    "no such key".
    """

    key: str
    called: float
    returned: float
    version: int | None
    acknowledged: bool
    deleted: bool = False
    epoch_order: int = 0


@dataclass(frozen=True, slots=True)
class Violation:
    """A read that showed the past, and the newest acknowledged write that it should have shown."""

    read: Read
    missed: Write

    def __str__(self) -> str:
        read, missed = self.read, self.missed
        shown = "no row" if read.version is None else f"version {read.epoch_order}.{read.version}"
        owed = f"version {missed.epoch_order}.{missed.version}{' (deleted)' if missed.deleted else ''}"
        return (
            f"{read.key}: read called at {read.called} showed {shown} ({read.status or 'unknown status'}), "
            f"but {owed} was acknowledged at {missed.returned}"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What ``check`` found. ``hits`` counts unflagged hits, ``bound`` checked reads that an acknowledged write bound."""

    violations: list[Violation]
    reads: int
    checked: int
    bound: int
    hits: int
    flagged: int
    writes: int
    acknowledged: int
    statuses: Counter[str] = field(default_factory=Counter)
    checked_of: Counter[str] = field(default_factory=Counter)
    """Checked reads by namespace."""

    @property
    def stale_per_million(self) -> float:
        """Violations in a million checked reads; 0 when nothing was checked."""
        return 1e6 * len(self.violations) / self.checked if self.checked else 0.0


class _Acknowledged:
    """The acknowledged writes of one key: at every moment, the newest state that a read may not be older than."""

    def __init__(self, writes: Sequence[Write]) -> None:
        self._times: list[float] = []
        self._newest: list[Write] = []
        self._deletes = [write for write in writes if write.deleted]
        newest: Write | None = None
        for write in sorted((write for write in writes if write.acknowledged), key=lambda write: write.returned):
            if newest is None or _order(write) > _order(newest):
                newest = write
                self._times.append(write.returned)
                self._newest.append(write)

    def before(self, moment: float) -> Write | None:
        """Return the newest write acknowledged strictly before ``moment``."""
        index = bisect_left(self._times, moment)
        return self._newest[index - 1] if index else None

    def explains_absence(self, missed: Write, read: Read) -> bool:
        """Tell whether a delete that is not older than ``missed`` can have happened before ``read`` returned.

        A delete of unknown version has an unknown outcome: it may have happened at any time after its call.
        """
        return missed.deleted or any(
            delete.called < read.returned
            and (delete.epoch_order >= missed.epoch_order if delete.version is None else _order(delete) > _order(missed))
            for delete in self._deletes
        )


def check(reads: Iterable[Read], writes: Iterable[Write]) -> Verdict:
    """Judge a whole history; the order in which operations are given does not matter.

    Raises:
        ValueError: a write was acknowledged without a version, so that nothing could be judged by it.
    """
    by_key: defaultdict[str, list[Write]] = defaultdict(list)
    total_writes = acknowledged = 0
    for write in writes:
        total_writes += 1
        if write.acknowledged:
            acknowledged += 1
            if write.version is None:
                raise ValueError(f"an acknowledged write needs its version: {write}")
        by_key[write.key].append(write)
    bounds = {key: _Acknowledged(of_key) for key, of_key in by_key.items()}

    violations: list[Violation] = []
    statuses: Counter[str] = Counter()
    checked_of: Counter[str] = Counter()
    total_reads = checked = bound = hits = flagged = 0
    for read in reads:
        total_reads += 1
        statuses[read.status] += 1
        if read.flagged:
            flagged += 1
            continue
        checked += 1
        checked_of[read.namespace] += 1
        hits += read.status == "hit"
        writes_of_key = bounds.get(read.key)
        missed = writes_of_key.before(read.called) if writes_of_key else None
        if writes_of_key is None or missed is None:
            continue
        bound += 1
        if _is_past(read, missed, writes_of_key):
            violations.append(Violation(read, missed))
    violations.sort(key=lambda violation: violation.read.called)
    return Verdict(violations, total_reads, checked, bound, hits, flagged, total_writes, acknowledged, statuses, checked_of)


def _is_past(read: Read, missed: Write, writes: _Acknowledged) -> bool:
    if read.version is None:
        return not writes.explains_absence(missed, read)
    return (read.epoch_order, read.version) < _order(missed)


def _order(write: Write) -> tuple[int, int]:
    return write.epoch_order, -1 if write.version is None else write.version
