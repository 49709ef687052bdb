"""The protocol's ports: a source of truth, a store of slots, and the values that pass between them.

Ports carry values and bytes only. A *key* is a non-empty string without control characters. The adapters are the
packages ``redis`` and ``postgres`` beside this module. The package of the rows implements ``Source``. The in-memory
adapters of the simulation pass the same contract suites.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import astuple, dataclass
from enum import IntEnum
from operator import add
from typing import Protocol

Clock = Callable[[], float]
"""Seconds on this process's own monotonic clock."""


@dataclass(frozen=True, slots=True)
class Value:
    """One version of a key's row, as the source has it.

    ``payload`` is a pure function of the row; ``epoch`` names the stretch of the source's history in which versions and
    transaction ids only rise (see ``history``).
    """

    key: str
    epoch: str
    version: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Absent:
    """A key without a row: it was deleted at ``version``, or never existed (version 0)."""

    key: str
    epoch: str
    version: int


State = Value | Absent


class WithStates(Protocol):
    """The part of a transaction's result that the cache uses."""

    @property
    def states(self) -> Sequence[State]:
        """The last state of every row that was changed or is part of an answer, read back before COMMIT."""


class Outcome(IntEnum):
    """What a publish did to a slot (R3's table); the numbers are those of ``redis/lua/publish.lua``."""

    EMPTY = 0
    """The slot was empty, or of another incarnation and is now empty: this publish may be older than what was there."""
    STORED = 1
    """The state replaced the publisher's own lease, an older state, or a state of another epoch."""
    KEPT = 2
    """The slot holds the same version or a newer one, and keeps it."""
    LEASE_DELETED = 3
    """Another holder's lease was deleted, because that holder may have loaded old data."""
    UNTRUSTED = 4
    """There is no watermark of this server and epoch, so the slot was deleted."""
    DELETED = 5
    """A deletion removed an older state or a state of another epoch."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A state to put into its slot. ``token`` belongs to a lease taken before the state was read; it is empty without one."""

    state: State
    token: str = ""
    ttl_s: int | None = None
    """Life of the slot, if a caller asked for another one than the namespace's."""
    deletes: bool = False
    """Whether the slot is deleted where the state would be stored. Only key, epoch and version are then sent, and no token."""


@dataclass(frozen=True, slots=True)
class Published:
    """The store's definite answer to one publish: an outcome for each publication, in order.

    ``proven`` is true when watermark and live fence name the very server that applied the publish, the states' epoch and one
    incarnation; only then may the write be acknowledged without settling.
    """

    outcomes: tuple[Outcome, ...]
    proven: bool
    unproven: frozenset[str] | None = None
    """If it is not proven: the audit rows of the partitions in which it is not; ``None`` for all."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The bytes of slots as one atomic read found them (see ``slot``); ``None`` for an empty slot.

    ``epoch`` is the fence's epoch, if the fence is live and names the server that was read. Otherwise it is ``""`` and no slot
    may be trusted. A reader trusts slots only in the latest epoch of its own source, and in the fence's ``incarnation``.
    """

    epoch: str
    slots: Sequence[bytes | None]
    incarnation: str = ""
    leases: Mapping[str, str] | None = None
    """Tokens of the leases that were taken with the read, by key. Whoever gets the reading loads these keys, or the leases
    expire."""
    fills: int = 0
    """How many fills of this process had ended when the reading was asked for."""


class Store(Protocol):
    """The shared slots. Every method has a deadline and raises ``StoreUnavailable`` when there was no definite answer."""

    async def read(self, keys: Sequence[str], lease: Sequence[str] = ()) -> Reading:
        """Read slots and fence in one atomic step; afterwards, in the same round trip, try to lease those of ``lease``.

        Idempotent without ``lease``. If the leases cannot be taken, or could not be used, the reading has none.
        Raises ``LeasesInDoubt`` if they may have been taken, but there was no answer.
        """

    async def lease(self, keys: Sequence[str]) -> dict[str, str]:
        """Try to lease each key's empty slot; return the tokens of the leases that were definitely taken.

        A slot of another incarnation counts as empty. Without a watermark of the server no lease is taken.
        Not idempotent: each token is sent in exactly one command, never repeated.
        Raises ``LeasesInDoubt`` if leases may have been taken, but there was no answer.
        """

    async def publish(self, publications: Sequence[Publication]) -> Published:
        """Apply R3's table to each publication in one atomic step. Idempotent, except that a token works only once."""

    async def release(self, tokens: dict[str, str]) -> None:
        """Give leases back unused, also those of ``LeasesInDoubt``. Idempotent."""

    async def drop(self, key: str) -> None:
        """Empty one slot. Idempotent."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """The progress of the audits of one namespace."""

    announced: int
    completed: int
    remaining_s: float
    """Seconds until no announced fence can be live; negative if they have passed."""


@dataclass(frozen=True, slots=True)
class AuditProgress:
    """The present epoch and its audit rows, as one statement on the primary found them (R4).

    ``rows`` has the row of each namespace of the table, by name, because a writer publishes only into its own namespace,
    while readers may trust another one. It is empty when no audit was announced in this epoch.
    """

    epoch: str
    rows: Mapping[str, AuditRow]


class Source(Protocol):
    """The rows themselves. The method has a deadline and raises ``SourceUnavailable`` when there was no answer."""

    async def load(self, keys: Sequence[str]) -> dict[str, State]:
        """Read rows and epoch from the primary, in a snapshot taken after the call began. Idempotent."""


class HistorySource(Protocol):
    """The source's history and the progress of its audits. Deadlines and errors are those of ``Source``."""

    async def tell_epoch(self) -> str:
        """Read the present epoch from the primary. Idempotent."""

    async def standing(self) -> AuditProgress:
        """Read the progress of the audits. Idempotent."""

    async def adopt(self, fence_ttl_max_ms: int) -> AuditProgress:
        """Announce, for an epoch without an audit, that a fence may be live for ``fence_ttl_max_ms``, on any server.

        Idempotent: it does nothing when an audit row of the table has the current epoch already.
        """


@dataclass(frozen=True, slots=True)
class Watermark:
    """The transaction id before which all transactions of an epoch have been compared with a server's slots.

    Only the slots of its ``incarnation`` were compared, a random number that is new after each clean start. Without an ``xid``
    it is a *mark*: an auditor of this epoch has taken over, and has compared nothing yet.
    """

    epoch: str
    xid: int | None
    incarnation: str = ""
    server: str = ""


@dataclass(frozen=True, slots=True)
class Begun:
    """The result of an audit's first step in the store: its clock, the server, and the watermark at that moment.

    ``claimed`` is false when another instance has the claim on this interval; the cycle then ends here. ``counts`` is true when
    the watermark was set over this server's data: it names this server, or the one from which this server got all its data.
    """

    time_ms: int
    server: str
    watermark: Watermark | None
    claimed: bool = True
    counts: bool = False


@dataclass(frozen=True, slots=True)
class Repairs:
    """Numbers of slots that an audit deleted, by cause, out of ``checked`` rows."""

    checked: int = 0
    older: int = 0
    other_epoch: int = 0
    leases: int = 0

    def __add__(self, other: "Repairs") -> "Repairs":
        return Repairs(*map(add, astuple(self), astuple(other)))


class AuditStore(Protocol):
    """The store during one audit cycle. It has one connection and never reconnects. ``StoreUnavailable`` ends the cycle.

    It is opened as an asynchronous context; an error that leaves the context gives the cycle's claim back.
    """

    async def begin(self, claim_ms: int) -> Begun:
        """Try to claim this interval's audit, and read clock, server and watermark."""

    async def verify(self, epoch: str, rows: Sequence[tuple[str, int]]) -> Repairs:
        """Delete every slot that is older than its row, of another epoch, leased, or of a foreign type. Idempotent."""

    async def distrust(self, mark: Watermark | None) -> None:
        """Replace the watermark by ``mark`` and delete the fence. Idempotent, always safe.

        No slot of the present incarnation is trusted again. By the mark, the auditors of an old primary notice that another
        primary has taken over.
        """

    async def trust(self, begun: Begun, proven: Watermark, fence_ttl_ms: int) -> bool:
        """Check the preconditions and set watermark and fence in one atomic step; return whether the fence was set.

        Only the epoch and the transaction id of ``proven`` are used. If the watermark of ``begun`` does not count, a new
        incarnation begins. Nothing is set if the watermark changed since ``begun`` into one of another server, epoch or
        incarnation, or if the server is another one or has taken over other data. If ``fence_ttl_ms`` have passed since
        ``begun``, only the watermark is set.
        """


@dataclass(frozen=True, slots=True)
class FenceLimits:
    """How long fences live, in milliseconds."""

    ttl_ms: int
    """Lifetime of the fences that this auditor sets."""
    ttl_max_ms: int
    """The longest lifetime that any instance of the fleet may set."""
    margin_ms: int
    """Added to every wait for a fence to expire, because the clocks of two hosts do not run at exactly the same rate."""


@dataclass(frozen=True, slots=True)
class Announced:
    """An audit cycle's announcement."""

    cycle: int
    """The cycle's number."""
    other_remaining_s: float
    """Seconds until no fence on another server can be live; negative if they have passed."""
    epoch: str


@dataclass(frozen=True, slots=True)
class Deferred:
    """A refused announcement, which changed nothing; ``reason`` says which server or namespace is trusted instead."""

    reason: str
    epoch: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repeatable-read snapshot of the source; it contains every transaction before ``xmin``."""

    epoch: str
    xmin: int
    pages: AsyncIterator[Sequence[tuple[str, int]]]
    """Keys and versions of rows changed since the given watermark; empty when the epochs differ."""
    rival: str = ""
    """Another namespace of the table whose fence may be live; empty when there is none."""


class AuditSource(Protocol):
    """The source during one audit cycle. It has one session and never reconnects. ``SourceUnavailable`` ends the cycle."""

    async def tell_epoch(self) -> str:
        """Read the present epoch. Idempotent."""

    async def announce(self, server: str, limits: FenceLimits) -> Announced | Deferred:
        """Commit the announcement that a fence on ``server`` may be live for at most ``limits.ttl_ms`` from now.

        The announcement is refused while the row names another server whose fence may be live, while another namespace of the
        table may be trusted, and while this namespace is barred: one server and one namespace are trusted at a time. If no row
        of the table has the present epoch, it also announces that fences of the largest TTL may be live, on any server.
        """

    def snapshot(self, since: Watermark | None, limits: FenceLimits, page_rows: int) -> AbstractAsyncContextManager[Snapshot]:
        """Open a snapshot, taken after the call began."""

    async def complete(self, cycle: int) -> None:
        """Commit that this cycle is finished: no slot is older than what was committed before its announcement.

        It does nothing if the audit row has meanwhile been replaced by one of another history, where the number means another
        cycle.
        """


@dataclass(frozen=True, slots=True)
class FirstPage:
    """The snapshot of one namespace, taken together with others, and the rows changed since its watermark.

    ``rows`` is ``None`` when there are more than fit into a page.
    """

    epoch: str
    xmin: int
    rows: Sequence[tuple[str, int]] | None
    rival: str = ""


VerifyRequest = tuple[str, str, Sequence[tuple[str, int]]]
"""Namespace, epoch and rows of a ``verify``."""
TrustRequest = tuple[str, Begun, Watermark, int]
"""Namespace, what was begun, the proven watermark, and the fence's TTL in milliseconds of a ``trust``."""
AnnounceRequest = tuple[str, str, FenceLimits]
"""Namespace, server and limits of an ``announce``."""
SnapshotRequest = tuple[str, Watermark | None, FenceLimits, int]
"""Namespace, watermark, limits and rows of a page of a ``snapshot``."""


class SharedAuditStore(Protocol):
    """The store during the cycles of several namespaces: one connection, one round trip for all of a call's requests.

    The verbs are those of ``AuditStore``, with the namespace first. ``StoreUnavailable`` ends the cycles of all.
    """

    async def begin(self, requests: Sequence[tuple[str, int]]) -> Sequence[Begun]:
        """``begin`` for each (namespace, claim in ms)."""

    async def verify(self, requests: Sequence[VerifyRequest]) -> Sequence[Repairs]:
        """``verify`` for each request."""

    async def distrust(self, namespace: str, mark: Watermark | None) -> None:
        """``distrust`` for one namespace."""

    async def trust(self, requests: Sequence[TrustRequest]) -> Sequence[bool]:
        """``trust`` for each request."""

    async def give_claim_back(self, namespace: str) -> None:
        """Release the claim on a namespace, if this cycle has it and is connected. Idempotent."""


class SharedAuditSource(Protocol):
    """The source during the cycles of several namespaces: one session, and the statements of one for all of a call's requests.

    A request that fails alone gets its error as its result. ``SourceUnavailable`` ends the cycles of all.
    """

    async def tell_epoch(self, namespace: str) -> str:
        """``tell_epoch`` for one namespace."""

    async def announce(self, requests: Sequence[AnnounceRequest]) -> Sequence[Announced | Deferred | Exception]:
        """``announce`` for each request."""

    async def snapshot(self, requests: Sequence[SnapshotRequest]) -> Sequence[FirstPage | Exception]:
        """``snapshot`` for each request. It waits for no lock and is over when it returns."""

    async def complete(self, requests: Sequence[tuple[str, int, str]]) -> Sequence[Exception | None]:
        """``complete`` for each (namespace, cycle, announced epoch)."""
