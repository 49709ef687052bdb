"""A Redis server in memory: each namespace's slots, fence, watermark and claim, and the scripts that work on them.

A server can be restarted (empty or from a snapshot), demoted and promoted, filled up and stopped. Clients ask for its
identity when they connect; a restart breaks their connections, a demotion does not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from app.cache import slot
from app.cache.history import HASH_WIDTH, hash_of
from app.cache.ports import Begun, Outcome, Publication, Published, Reading, Repairs, State, Value, Watermark
from tests.fakes.wire import Disconnected


class RedisError(Exception):
    """An error reply: ``OOM``, ``READONLY``, ``LOADING``."""


@dataclass(frozen=True, slots=True)
class Fence:
    """The server, epoch and incarnation that may be trusted, and until when (seconds on the server's own clock)."""

    server: str
    epoch: str
    incarnation: str
    expires_at: float


@dataclass(slots=True)
class Data:
    """Everything a server stores; a snapshot is a copy of it. Slots have absolute expiries."""

    slots: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    fence: Fence | None = None
    watermark: Watermark | None = None
    claim: tuple[str, float] = ("", 0.0)
    """The token of the claim on this interval's audit, and when it expires."""
    replid: str = ""
    """The replication id of the server that holds it, or from which it was copied as a whole."""
    others: dict[str, "Data"] = field(default_factory=dict)
    """What further namespaces store, by name."""

    def copy(self) -> "Data":
        """Return what a snapshot, or a replica that is up to date, holds."""
        return replace(self, slots=dict(self.slots), others={name: data.copy() for name, data in self.others.items()})

    def of(self, namespace: str) -> "Data":
        """Return what a namespace stores; the first namespace of a server has no name here."""
        return self.others.setdefault(namespace, Data()) if namespace else self


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Times to live, in seconds, that clients send along; ``absent_s`` is for ids that never were."""

    value_s: float = 3_600.0
    absent_s: float = 30.0
    lease_s: float = 3.0

    def of(self, state: State) -> float:
        """How long a state may stay."""
        return self.value_s if isinstance(state, Value) or state.version else self.absent_s


class RedisServer:
    """One server process and its memory.

    Args:
        now: the host's clock, in seconds.
        stored: is told of each state that is put into a slot.
    """

    def __init__(self, name: str, now: Callable[[], float], stored: Callable[[State], None] | None = None) -> None:
        self.name = name
        self.now = now
        self.data = Data()
        self.master = True
        self.down = False
        self.full = False
        self.loading = False
        self.starts = 1
        self.histories = 0
        self.before = ""
        """The replication id of the server from which this one got all its data."""
        self.namespace = ""
        """The namespace of the command that runs."""
        self._stored = stored
        self._begin_history()

    @property
    def identity(self) -> str:
        """Run id and replication id, as a client learns them when it connects.

        Raises:
            RedisError: the server is no master; a client must not use it.
        """
        if not self.master:
            raise RedisError("not a master")
        return f"{self.name}.{self.starts}:{self._replid}"

    @property
    def _replid(self) -> str:
        return f"{self.name}-{self.histories}"

    def _begin_history(self) -> None:
        self.histories += 1
        self.before = self.data.replid
        self.data.replid = self._replid

    @property
    def space(self) -> Data:
        """What the namespace of the command that runs stores."""
        return self.data.of(self.namespace)

    def restart(self, data: Data) -> None:
        """Start anew with this memory: a new run id, and every connection broken."""
        self.starts += 1
        self.data = data
        self._begin_history()
        self.master = True
        self.full = self.loading = False

    def demote(self, data: Data) -> None:
        """Follow another master, whose memory this is: the run id and the connections stay."""
        self.master = False
        self.data = data

    def promote(self) -> None:
        """Become a master: a new replication id."""
        self.master = True
        self._begin_history()

    # Commands

    def read(self, identity: str, keys: Sequence[str]) -> Reading:
        """Read fence and slots (``MGET``)."""
        self._answer()
        fence = self._live_fence()
        slots = [self.raw(key) for key in keys]
        return Reading(fence.epoch, slots, fence.incarnation) if fence and fence.server == identity else Reading("", slots)

    def read_and_lease(self, identity: str, keys: Sequence[str], tokens: dict[str, str], life_s: float) -> Reading:
        """Read (``MGET``), then the script that takes leases, whose errors are caught."""
        reading = self.read(identity, keys)
        try:
            return replace(reading, leases=self.lease(identity, tokens, life_s))
        except RedisError:
            return replace(reading, leases={})

    def lease(self, identity: str, tokens: dict[str, str], life_s: float) -> dict[str, str]:
        """The script that takes leases."""
        self._change(grows=True)
        found = self.space.watermark
        if not self._may_lease(found, identity):
            return {}
        incarnation = found.incarnation if found else ""
        taken = {}
        for key, token in tokens.items():
            raw = self.raw(key)
            if raw is None or self._void(raw, incarnation):
                taken[key] = incarnation + token
                self.space.slots[key] = (slot.LEASE + taken[key].encode(), self.now() + life_s)
        return taken

    def publish(self, identity: str, publications: Sequence[Publication], lifetimes: Lifetimes) -> Published:
        """R3's script."""
        self._change(grows=True)
        epochs = {hash_of(publication.state.epoch) for publication in publications}
        watermark, fence = self.space.watermark, self._live_fence()
        outcomes = tuple(self._publish(identity, publication, lifetimes) for publication in publications)
        proven = (
            watermark is not None
            and watermark.xid is not None
            and watermark.server == identity
            and epochs == {hash_of(watermark.epoch)}
            and fence is not None
            and fence.server == identity
            and (fence.epoch, fence.incarnation) == (watermark.epoch, watermark.incarnation)
        )
        return Published(outcomes, proven)

    def release(self, tokens: dict[str, str]) -> None:
        """Delete own leases."""
        self._change()
        for key, token in tokens.items():
            raw = self.raw(key) or b""
            bare = slot.LEASE + raw[1 + slot.INCARNATION_WIDTH :]
            if raw.startswith(slot.LEASE) and slot.LEASE + token.encode() in (raw, bare):
                del self.space.slots[key]

    def drop(self, key: str) -> None:
        """``DEL key``."""
        self._change()
        self.space.slots.pop(key, None)

    def begin(self, identity: str, token: str, claim_s: float) -> Begun:
        """Try to claim the interval; return time, server and watermark."""
        self._change(grows=True)
        claimed = self.space.claim[1] <= self.now()
        if claimed:
            self.space.claim = (token, self.now() + claim_s)
        watermark = self.space.watermark
        return Begun(int(self.now() * 1_000), identity, watermark, claimed, watermark is not None and self._counts(watermark))

    def give_back(self, token: str) -> None:
        """Give a claim back, if it is still this token's."""
        self._change()
        if self.space.claim[0] == token:
            self.space.claim = ("", 0.0)

    def verify(self, epoch: str, rows: Sequence[tuple[str, int]]) -> Repairs:
        """Delete every slot that is older than its row, of another epoch, or leased."""
        self._change()
        repairs = Repairs(checked=len(rows))
        for key, version in rows:
            raw = self.raw(key)
            repair = Repairs() if raw is None else self._fault(raw, epoch, version)
            if repair != Repairs():
                del self.space.slots[key]
            repairs += repair
        return repairs

    def mark(self, mark: Watermark | None) -> None:
        """Put a mark in place of the watermark."""
        self._change(grows=True)
        self.space.watermark = mark

    def take_fence(self) -> None:
        """``DEL fence``."""
        self._change()
        self._place_of_fence().fence = None

    def trust(self, begun: Begun, proven: Watermark, ttl_s: float) -> bool:
        """Step 5 of R5: set watermark and fence. ``proven`` has the incarnation."""
        self._change(grows=True)
        if not self._is_still(begun):
            return False
        found = self.space.watermark
        proven = replace(proven, server=begun.server)
        same = found is not None and replace(found, xid=proven.xid) == proven
        if found != begun.watermark and not same:
            return False
        if found is not None and same:
            proven = replace(proven, xid=max(proven.xid or 0, found.xid or 0))
        expires_at = self._expiry(begun, ttl_s)
        if expires_at <= self.now():
            self._leave_late(proven)
            return False
        self.space.watermark = proven
        fence = self._live_fence()
        if fence is not None and replace(fence, expires_at=0.0) == Fence(begun.server, proven.epoch, proven.incarnation, 0.0):
            expires_at = max(expires_at, fence.expires_at)
        self._place_of_fence().fence = Fence(begun.server, proven.epoch, proven.incarnation, expires_at)
        return True

    def raw(self, key: str) -> bytes | None:
        """A slot's bytes, ``None`` when it is empty or its time is over."""
        found = self.space.slots.get(key)
        if found is None:
            return None
        if found[1] <= self.now():
            del self.space.slots[key]
            return None
        return found[0]

    # The guards, one by one: a mutant of the simulation overrides one of them.

    def _answer(self) -> None:
        if self.down:
            raise Disconnected(f"{self.name} is down")
        if self.loading:
            raise RedisError("LOADING")

    def _change(self, *, grows: bool = False) -> None:
        self._answer()
        if not self.master:
            raise RedisError("READONLY")
        if grows and self.full:
            raise RedisError("OOM")

    def _live_fence(self) -> Fence | None:
        fence = self._place_of_fence().fence
        return fence if fence is not None and fence.expires_at > self.now() else None

    def _counts(self, watermark: Watermark) -> bool:
        """Whether a watermark was set over this server's data."""
        replid = watermark.server.rpartition(":")[2]
        return watermark.xid is not None and (watermark.server == self.identity or (replid != "" and replid == self.before))

    def _may_lease(self, watermark: Watermark | None, identity: str) -> bool:
        return watermark is not None and watermark.xid is not None and watermark.server == identity

    def _void(self, raw: bytes, incarnation: str) -> bool:
        return slot.incarnation_in(raw) != incarnation

    def _place_of_fence(self) -> Data:
        return self.space

    def _is_still(self, begun: Begun) -> bool:
        return self.identity == begun.server

    def _leave_late(self, proven: Watermark) -> None:
        self.space.watermark = proven

    def _expiry(self, begun: Begun, ttl_s: float) -> float:
        return begun.time_ms / 1_000 + ttl_s

    def _publish(self, identity: str, publication: Publication, lifetimes: Lifetimes) -> Outcome:
        state = publication.state
        raw = self.raw(state.key)
        incarnation = self.space.watermark.incarnation if self.space.watermark else ""
        outcome = self._decide(raw, publication, identity, incarnation)
        if publication.deletes and outcome is Outcome.STORED:
            outcome = Outcome.DELETED
        if outcome is Outcome.STORED:
            self.space.slots[state.key] = (slot.encode(state, incarnation), self.now() + lifetimes.of(state))
            if self._stored is not None:
                self._stored(state)
        elif outcome is not Outcome.KEPT:
            self.space.slots.pop(state.key, None)
        return outcome

    def _decide(self, raw: bytes | None, publication: Publication, identity: str, incarnation: str) -> Outcome:
        """R3's table."""
        state = publication.state
        if not self._trusted(state, identity):
            return Outcome.UNTRUSTED
        if raw is None:
            return self._on_empty()
        void = self._void(raw, incarnation)
        if raw[:1] == slot.LEASE:
            owns = self._owns(raw, publication.token) and not self._is_void_lease(raw, incarnation)
            return Outcome.STORED if owns else self._on_foreign_lease(publication)
        if void:
            return self._on_void()
        return Outcome.STORED if self._replaces(raw, state) else Outcome.KEPT

    def _trusted(self, state: State, identity: str) -> bool:
        found = self.space.watermark
        return (
            found is not None
            and found.xid is not None
            and found.server == identity
            and hash_of(found.epoch) == hash_of(state.epoch)
        )

    def _is_void_lease(self, raw: bytes, incarnation: str) -> bool:
        return self._void(raw, incarnation)

    def _on_void(self) -> Outcome:
        return Outcome.EMPTY

    def _on_empty(self) -> Outcome:
        return Outcome.EMPTY

    def _owns(self, raw: bytes, token: str) -> bool:
        return bool(token) and raw == slot.LEASE + token.encode()

    def _on_foreign_lease(self, publication: Publication) -> Outcome:
        del publication
        return Outcome.LEASE_DELETED

    def _replaces(self, raw: bytes, state: State) -> bool:
        return slot.hash_in(raw) != hash_of(state.epoch) or version_of(raw) < state.version

    def _fault(self, raw: bytes, epoch: str, version: int) -> Repairs:
        if raw[:1] == slot.LEASE:
            return Repairs(leases=1)
        if slot.hash_in(raw) != hash_of(epoch):
            return Repairs(other_epoch=1)
        return Repairs(older=1) if version_of(raw) < version else Repairs()


def version_of(raw: bytes) -> int:
    """The version in a state's bytes."""
    return int(raw[1 + HASH_WIDTH : slot.HEAD_WIDTH])
