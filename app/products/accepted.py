"""Accepted writes: requests that are committed to PostgreSQL first, answered with 202, and decided later.

Accept
    The request is inserted into ``accepted_writes`` and acknowledged by COMMIT alone. Nothing is decided.

Apply
    A transaction locks rows, decides their requests by the same commands as any other write, and deletes the rows. The changes,
    the ledger, the stored answers and the deletions are committed together, so each request is decided exactly once. One
    applier at a time works through the lowest rows (``applier``). A direct write first applies what waits for its products,
    in its own transaction, so that it does not overtake an earlier request.

Order
    Two requests that share a product are decided in the order of their acceptance, if the second was sent after the first was
    accepted. A row that cannot be decided now holds up every later row that shares a product with it. A decision depends on the
    command's own products alone, so this keeps the order of each sender: all its results are as if they were decided in turn.

Status
    "Done" is an acknowledgement. Before it is given, the present rows of the request's products are published, or it settles
    (R10), because the transaction that applied the request may have been followed by no publish.

Failures
    =================================  =====================================================================
    killed before COMMIT of accept     nothing was accepted; the sender repeats it
    killed after it, before the 202    the row is there; a repetition with the same key finds it
    killed before COMMIT of apply      the rows are there, unlocked; the next transaction decides them
    killed after it, before publish    the answer is stored; the audit repairs the slots; the status publishes or settles
    answer to a COMMIT lost            accept: 503 ``outcome-unknown``; apply: the rows say what happened
    a row cannot be applied            it is tried alone, marked as failed, and counted; the rows behind it go on
    =================================  =====================================================================
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.cache.errors import Overloaded
from app.cache.ports import State
from app.products.errors import Refused
from app.products.idempotency import Answer, WriteRequest

MOST_ROWS = 100_000
"""Most rows that wait to be applied, beyond which nothing is accepted."""
MOST_AGE_S = 60.0
"""Age of the lowest row beyond which nothing is accepted."""
MOST_BODY_BYTES = 65_536
"""Largest body that is accepted to be decided later. A larger request is decided at once."""
ROWS_AT_ONCE = 200
"""Most accepted writes in one transaction."""
WEIGHT_AT_ONCE = 2_000
"""Most weight of accepted writes in one transaction, except that one is always applied."""


@dataclass(frozen=True, slots=True)
class AcceptedWrite:
    """A request that is accepted and not yet decided."""

    caller: str
    key: str
    request_hash: bytes
    product_ids: Sequence[str]
    operation: str
    """The name of the operation. Only the code that decodes the request interprets this and the next two fields."""
    target: str
    conditions: str
    body: bytes
    request_id: str | None


Decode = Callable[[AcceptedWrite], Awaitable[WriteRequest]]
"""Returns the command and the origin of an accepted write. What it raises marks the write as failed."""


@dataclass(frozen=True, slots=True)
class Queued:
    """The request is in the database, and not yet decided."""


@dataclass(frozen=True, slots=True)
class Decided:
    """The request was decided, and answered with ``answer``."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Failed:
    """The request cannot be applied; nothing was changed for it. ``reason`` is for people."""

    reason: str


WriteState = Queued | Decided | Failed


@dataclass(frozen=True, slots=True)
class Found:
    """What the database says about a key, and the present rows to publish before that is told."""

    state: WriteState | None
    states: Sequence[State] = ()


class BacklogFull(Overloaded):
    """Too many accepted writes wait to be applied, or the first has waited for too long; nothing was accepted."""

    def __init__(self, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__("too many accepted writes wait to be applied")


class ApplyFailed(Exception):
    """A transaction of the applier failed; nothing was changed. ``seqs`` are the rows that it was to decide."""

    def __init__(self, seqs: Sequence[int], cause: Exception) -> None:
        self.seqs = seqs
        super().__init__(f"{type(cause).__name__}: {cause}")


@dataclass(slots=True)
class AcceptedStats:
    """Counts of one process, and the backlog as it last saw it. Several processes see the same backlog."""

    accepted: int = 0
    applied: int = 0
    refused: int = 0
    failed: int = 0
    rows: int = 0
    oldest_s: float = 0.0
    failed_rows: int = 0

    def __add__(self, other: "AcceptedStats") -> "AcceptedStats":
        return AcceptedStats(
            self.accepted + other.accepted,
            self.applied + other.applied,
            self.refused + other.refused,
            self.failed + other.failed,
            max(self.rows, other.rows),
            max(self.oldest_s, other.oldest_s),
            max(self.failed_rows, other.failed_rows),
        )

    def counts(self) -> "AcceptedStats":
        """Return the counts without the backlog, which a dead process no longer sees."""
        return AcceptedStats(self.accepted, self.applied, self.refused, self.failed)


@dataclass(slots=True)
class TakenRows:
    """The accepted writes that one transaction has locked, in the order in which they are decided."""

    seqs: list[int] = field(default_factory=list)
    requests: list[WriteRequest] = field(default_factory=list)
    recorded: list[Sequence[str]] = field(default_factory=list)
    """The products of each request, as they were recorded when it was accepted."""
    failures: dict[int, str] = field(default_factory=dict)
    """Why a row cannot be applied, by its number."""
    blocked: dict[str, Sequence[str]] = field(default_factory=dict)
    """The products of rows that are not decided in this transaction, each with the products whose rows to wait for.

    No later row for one of them is taken over, and no direct write of one of them may be decided.
    """

    async def add(self, rows: Sequence[Sequence[Any]], decode: Decode, only: int | None = None) -> None:
        """Take over rows of ``TAKE_LOWEST`` or ``TAKE_BEFORE``, or only the row of a number.

        A row is blocked if another transaction has locked it, if this one is full, if ``only`` names another row, or if it is
        about a product of a blocked row.
        """
        weight = 0
        for held, seq, caller, key, request_hash, product_ids, *sent in rows:
            full = len(self.seqs) >= ROWS_AT_ONCE or weight >= WEIGHT_AT_ONCE
            unmeant = only is not None and seq != only
            if held or full or unmeant or not self.blocked.keys().isdisjoint(product_ids):
                self.blocked |= dict.fromkeys(product_ids, product_ids)
                continue
            try:
                request = await decode(AcceptedWrite(caller, key, request_hash, product_ids, *sent))
            except Exception as error:  # noqa: BLE001 - the row is marked, with the reason
                self.failures[seq] = _reason(error)
                continue
            weight += request.command.weight
            self.seqs.append(seq)
            self.requests.append(request)
            self.recorded.append(product_ids)


def failure_of(refusal: Refused) -> str:
    """Return why a request that was refused without an answer to store is marked as failed."""
    return _reason(refusal)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:1_000]
