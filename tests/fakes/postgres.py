"""A PostgreSQL primary in memory, as far as the cache can tell: rows with versions and transaction ids, snapshots, epochs.

There are two tables (``table_of``) and one epoch for both: a truncation empties both.

Transactions take row locks and commit at one point; a snapshot sees what had committed when it was taken. The server can be
restarted, truncated, restored from a dump, or replaced by a promoted standby that lags: the last three begin a new epoch,
and versions, transaction ids and the audit row may go back.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace

from app.cache import ports as cache
from app.cache.history import hash_of
from app.cache.ports import Absent, Announced, AuditProgress, Deferred, FenceLimits, State, Value
from tests.fakes.rows import NAMESPACE, Aborted, AuditRow, Change, Image, Moment, Refused, Row, Transaction, table_of
from tests.fakes.wire import Disconnected


class MemoryPostgres:
    """The primary.

    Args:
        now: the host's clock, in seconds.
    """

    def __init__(self, now: Callable[[], float], system: str = "7000000000000000001") -> None:
        self.now = now
        self.overlapping: set[str] = set()
        """Namespaces whose announcements overlap with another's in time, so that neither statement sees the other."""
        self.rows: dict[str, Row] = {}
        self.audits: dict[str, AuditRow] = {}
        self.system = system
        self.timeline = 1
        self.locked: set[str] = set()
        """Tables that somebody holds with ACCESS EXCLUSIVE; every lock on them is refused at once."""
        self.untriggered: set[str] = set()
        """Tables that lack a trigger, and therefore have no epoch."""
        self.next_xid = 700
        self.down = False
        self.incarnation = 1
        self.truncations = 0
        self.open: list[Transaction] = []
        self.snapshots: list[str] = []
        """Clients that hold a snapshot open, and with it a lock that a truncation has to wait for."""
        self.ledger: dict[tuple[str, str, int], str | None] = {}
        """Every state that was ever committed: content by the epoch's hash, key and version; ``None`` for a tombstone."""
        self.order_of_epoch: dict[str, int] = {}
        self.marks: set[str] = set()
        self._waiting: list[tuple[Transaction, str, Change, asyncio.Future[State]]] = []
        self.epoch = ""
        self._begin_epoch()

    # What a statement sees

    def state(self, key: str) -> State:
        """The committed state of a key."""
        self.answer()
        self.admit(key)
        return as_state(key, self.epoch, self.rows.get(key))

    def admit(self, name: str) -> None:
        """Raise ``Refused`` if the table of a namespace or key cannot be read, or must not be cached."""
        self.check_triggers(name)
        if table_of(name) in self.locked:
            raise Refused(f"{table_of(name)} is locked")

    def check_triggers(self, name: str) -> None:
        """Raise ``Refused`` if the table of a namespace or key lacks a trigger."""
        if table_of(name) in self.untriggered:
            raise Refused(f"a trigger of {table_of(name)} is missing")

    def tell_epoch(self, namespace: str = NAMESPACE) -> str:
        """The present epoch."""
        self.answer()
        self.check_triggers(namespace)
        return self.epoch

    def standing(self, namespace: str = NAMESPACE) -> AuditProgress:
        """The epoch, and the audit rows of the namespace's table that speak of it."""
        self.answer()
        self.check_triggers(namespace)
        rows = {
            name: cache.AuditRow(row.announced, row.completed, row.fenced_until - self.now())
            for name, row in self.audits.items()
            if table_of(name) == table_of(namespace) and self._speaks(row)
        }
        return AuditProgress(self.epoch, rows)

    def take_snapshot(self, client: str) -> Moment:
        """Begin a ``REPEATABLE READ`` transaction; ``let_go`` ends it."""
        self.answer()
        self.snapshots.append(client)
        running = [transaction.xid for transaction in self.open if transaction.xid is not None]
        return Moment(self.epoch, min(running, default=self.next_xid), dict(self.rows), self.truncations)

    def let_go(self, client: str) -> None:
        """End a client's snapshot, if it has one."""
        if client in self.snapshots:
            self.snapshots.remove(client)

    def forget(self, client: str) -> None:
        """Notice that a client is gone, and roll back its open transactions."""
        for transaction in [transaction for transaction in self.open if transaction.client == client]:
            self.roll_back(transaction)
        self.let_go(client)

    def changed_since(self, moment: Moment, xid: int) -> list[tuple[str, int]]:
        """Keys and versions in a snapshot of rows changed by ``xid`` or a later transaction; a truncated table is empty."""
        self.answer()
        if moment.truncations != self.truncations:
            return []
        return sorted((key, row.version) for key, row in moment.rows.items() if row.changed_xid >= xid)

    # Audit row

    def announce(self, namespace: str, server: str, limits: FenceLimits) -> Announced | Deferred:
        """Step 2 of R5, committed at once."""
        self.answer()
        self.check_triggers(namespace)
        if rival := self._rival_at_announcement(namespace, limits):
            return Deferred(f"namespace {rival} is trusted", self.epoch)
        row = self.audits.setdefault(namespace, AuditRow())
        if row.barred or not self._may_announce(row, server, limits):
            return Deferred("barred" if row.barred else f"server {row.server} is trusted", self.epoch)
        row.fenced_until = self._fenced_until(row, limits.ttl_ms / 1_000)
        if not self._is_announced(namespace):
            self._assume_worst(row, limits.ttl_max_ms / 1_000)
        row.announced += 1
        row.server = server
        row.epoch = self.epoch
        self.next_xid += 1
        return Announced(row.announced, row.other_until - self.now(), self.epoch)

    def complete(self, namespace: str, cycle: int, epoch: str) -> None:
        """Step 6 of R5, committed at once, for a cycle that was announced in this epoch."""
        self.answer()
        row = self.audits.get(namespace)
        if row is not None and self._knows(row, cycle, epoch):
            row.completed = max(row.completed, cycle)
            self.next_xid += 1

    def adopt(self, namespace: str, max_ttl_s: float) -> AuditProgress:
        """Announce for an epoch that no audit has announced."""
        self.answer()
        self.check_triggers(namespace)
        if not self._is_announced(namespace):
            row = self.audits.setdefault(namespace, AuditRow())
            self._assume_worst(row, max_ttl_s)
            row.announced += 1
            row.epoch = self.epoch
            self.next_xid += 1
        return self.standing(namespace)

    def rival(self, namespace: str, limits: FenceLimits) -> str:
        """Another namespace of the table whose fence may live; empty when there is none."""
        self.answer()
        ahead = self.now() - limits.margin_ms / 1_000
        others = {name: row for name, row in self.audits.items() if name != namespace and table_of(name) == table_of(namespace)}
        return next((name for name, row in others.items() if row.fenced_until > ahead), "")

    def know_history(self, *namespaces: str) -> None:
        """Begin as a server on which nobody ever set a fence: no audit has to wait for one to lapse."""
        for namespace in namespaces or (NAMESPACE,):
            self.audits.setdefault(namespace, AuditRow()).epoch = self.epoch

    def applied(self, mark: str) -> bool:
        """Whether a transaction with this mark is committed."""
        return mark in self.marks

    def was_committed(self, state: State) -> bool:
        """Whether a state was ever visible to anybody, byte for byte."""
        if state.version == 0:
            return isinstance(state, Absent)
        place = hash_of(state.epoch), state.key, state.version
        if place not in self.ledger:
            return False
        content = self.ledger[place]
        if isinstance(state, Absent) or content is None:
            return isinstance(state, Absent) and content is None
        return state.payload == payload(state.key, state.version, content)

    # Transactions

    def begin(self, client: str, mark: str = "") -> Transaction:
        """Begin a transaction."""
        self.answer()
        transaction = Transaction(client, self.incarnation, mark)
        self.open.append(transaction)
        return transaction

    def change(self, transaction: Transaction, key: str, change: Change) -> "State | asyncio.Future[State]":
        """Lock and change a row, and return it as it will be committed; a future while another transaction has the lock."""
        self._check(transaction)
        holder = next((other for other in self.open if other is not transaction and key in other.changed), None)
        if holder is not None:
            future: asyncio.Future[State] = asyncio.get_running_loop().create_future()
            self._waiting.append((transaction, key, change, future))
            return future
        if transaction.xid is None:
            transaction.xid = self.next_xid
            self.next_xid += 1
        found = transaction.changed.get(key, self.rows.get(key))
        live = None if found is None or found.deleted else found
        content = change(live)
        if content == (live.content if live else None):
            return as_state(key, self.epoch, found)
        row = Row(found.version + 1 if found else 1, content or "", content is None, transaction.xid)
        transaction.changed[key] = row
        return as_state(key, self.epoch, row)

    def commit(self, transaction: Transaction) -> None:
        """Make a transaction's changes visible, all at once."""
        self._check(transaction)
        for key, row in transaction.changed.items():
            self.rows[key] = row
            self._record(key, row)
        self.marks.add(transaction.mark)
        self._end(transaction)

    def roll_back(self, transaction: Transaction) -> None:
        """Roll a transaction back; does nothing when it is over."""
        if not transaction.over:
            self._end(transaction)

    # What happens to a server

    def restart(self) -> None:
        """Restart: every session and open transaction is gone."""
        self.incarnation += 1
        waiting, self._waiting = self._waiting, []
        for _, _, _, future in waiting:
            if not future.done():
                future.set_exception(Disconnected("the database was restarted"))
        for transaction in list(self.open):
            self._end(transaction)
        self.snapshots.clear()

    def image(self) -> Image:
        """Return what a dump or a standby would hold now."""
        audits = {name: replace(row) for name, row in self.audits.items()}
        return Image(dict(self.rows), audits, self.next_xid, frozenset(self.marks))

    def truncate(self) -> bool:
        """``TRUNCATE``: waits for no lock, but does nothing and returns False when it would have to."""
        if self.snapshots or any(transaction.changed for transaction in self.open):
            return False
        self.rows = {}
        self.truncations += 1
        self._begin_epoch()
        return True

    def restore(self, image: Image) -> bool:
        """``pg_restore --clean``: rows and audit row as they were, transaction ids going on."""
        if not self.truncate():
            return False
        self.rows = dict(image.rows)
        self.audits = {name: replace(row) for name, row in image.audits.items()}
        self.marks = set(image.marks)
        for key, row in self.rows.items():
            self._record(key, row)
        return True

    def promote(self, image: Image) -> None:
        """Fail over to a standby that had got as far as ``image``."""
        self.restart()
        self.rows = dict(image.rows)
        self.audits = {name: replace(row) for name, row in image.audits.items()}
        self.timeline += 1
        self.next_xid = image.next_xid
        self.marks = set(image.marks)
        self.truncations += 1
        self._begin_epoch()
        for key, row in self.rows.items():
            self._record(key, row)

    def fork(self) -> "MemoryPostgres":
        """A standby that is promoted while this primary goes on: two primaries of one system."""
        other = type(self)(self.now, self.system)
        other.order_of_epoch, other.ledger = self.order_of_epoch, self.ledger
        other.timeline = self.timeline
        other.promote(self.image())
        return other

    def answer(self) -> None:
        """Raise ``Disconnected`` while the server is down."""
        if self.down:
            raise Disconnected("the database is down")

    def _knows(self, row: AuditRow, cycle: int, epoch: str) -> bool:
        return row.epoch == epoch and row.announced >= cycle

    def _speaks(self, row: AuditRow) -> bool:
        return row.epoch == self.epoch

    def _is_announced(self, namespace: str) -> bool:
        table = table_of(namespace)
        return any(table_of(name) == table and row.epoch == self.epoch for name, row in self.audits.items())

    def _may_announce(self, row: AuditRow, server: str, limits: FenceLimits) -> bool:
        lapsed = row.fenced_until + limits.margin_ms / 1_000 <= self.now()
        return row.server == server or row.epoch != self.epoch or lapsed

    def _rival_at_announcement(self, namespace: str, limits: FenceLimits) -> str:
        return "" if namespace in self.overlapping else self.rival(namespace, limits)

    def _fenced_until(self, row: AuditRow, ttl_s: float) -> float:
        return max(row.fenced_until, self.now() + ttl_s)

    def _assume_worst(self, row: AuditRow, max_ttl_s: float) -> None:
        worst = self.now() + max_ttl_s
        row.fenced_until = max(row.fenced_until, worst)
        row.other_until = max(row.other_until, worst)

    def _check(self, transaction: Transaction) -> None:
        self.answer()
        if transaction.over or transaction.incarnation != self.incarnation:
            raise Aborted("the transaction was rolled back")

    def _end(self, transaction: Transaction) -> None:
        transaction.over = True
        self.open.remove(transaction)
        waiting, self._waiting = self._waiting, []
        for waiter, key, change, future in waiting:
            if waiter is transaction or waiter.over or future.done():
                if not future.done():
                    future.set_exception(Aborted("the transaction was rolled back"))
                continue
            result = self.change(waiter, key, change)
            if isinstance(result, asyncio.Future):
                # Still locked by another: the queue entry just made is this waiter's, with its first future.
                self._waiting[-1] = (waiter, key, change, future)
            else:
                future.set_result(result)

    def _begin_epoch(self) -> None:
        order = len(self.order_of_epoch)
        digest = hashlib.blake2b(f"{self.system} {order}".encode(), digest_size=8).hexdigest()
        self.epoch = f"{self.system}.{self.timeline:08x}.{digest}"
        self.order_of_epoch[hash_of(self.epoch)] = order

    def _record(self, key: str, row: Row) -> None:
        self.ledger[hash_of(self.epoch), key, row.version] = None if row.deleted else row.content


def as_state(key: str, epoch: str, row: Row | None) -> State:
    """A row as the cache stores it; its payload is a pure function of the row."""
    if row is None or row.deleted:
        return Absent(key, epoch, row.version if row else 0)
    return Value(key, epoch, row.version, payload(key, row.version, row.content))


def payload(key: str, version: int, content: str) -> bytes:
    """The bytes that stand for a row."""
    return f"{key}@{version}={content}".encode()
