"""One transaction for many requests, each with its own decision, ledger entries and answer.

A transaction has three round trips: (1) BEGIN, the idempotency keys and the row locks; (2) the changes and the read-back; (3)
the stored answers and COMMIT. The read-back comes after all changes, so that it contains the effects of triggers and later
statements. The last two are one if no answer is made of the read-back (docs/decisions/0029).

A transaction waits for no row unless it is given ``Patience``. A request whose row somebody else holds is postponed, and the
others are carried out. A request that lacks units costs a fourth round trip, which reads the ended reservations of its product.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.cache.history import History
from app.cache.ports import Clock, State
from app.cache.postgres.table_queries import EPOCH, parameters
from app.postgres.database import Session, Statement
from app.postgres.errors import CommitUnknown
from app.products import accepted_queries, pair_queries, queries, reservation_queries
from app.products.accepted import ROWS_AT_ONCE, Decode, TakenRows, failure_of
from app.products.changes import Changes, let_others_run
from app.products.commands import Command
from app.products.decision import Decision, Denied, Done, Postponed, Repeated
from app.products.errors import BucketMoving, KeyReused, Refused
from app.products.idempotency import Answer, IdempotencyKey, StoredAnswer, WriteRequest
from app.products.pair import Buckets, Pair, buckets_of
from app.products.product import Gone, Row
from app.products.reservation import EndedLine, EndedLines
from app.products.reservation_commands import ReservationCommand, Tidy
from app.products.reservation_source import reservation_of
from app.products.shelf import MAX_ENDED, Facts, Shelf
from app.products.source import PRODUCTS, row_of
from app.products.steps import steps_of, store_answer

MANY_LINES = 2_000
"""Lines of the reservations that a batch names, above which no further long one joins it."""
LONG = 50
"""Lines above which a reservation is long."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a transaction waits for locks that somebody else holds, and for which rows."""

    wait_ms: int
    ids: Sequence[str] = ()
    """The rows to lock first."""
    doubtful: bool = False
    """Whether they are probably held. They are then locked in a separate round trip, so that a failure costs nothing else."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The result of one transaction: a decision for each request, and the last state of every row to publish."""

    decisions: Sequence[Decision]
    states: Sequence[State]
    accepted_decisions: Sequence[Decision] = ()
    """The decisions on accepted writes."""
    failures: int = 0
    """Number of accepted writes that were marked as failed."""


class Transaction:
    """One attempt to carry out one batch.

    Args:
        direct: the requests that are decided and answered at once.
        patience: how long to wait for locks that somebody else holds; without it no row is waited for.
        history: checks the epoch in which the changes are committed, or names it.
        decode: makes requests of accepted writes, which are decided first; ``None`` if no writes are accepted.
        again: whether an attempt failed before. The newest versions in the ledger are then read, too.
        at_once: whether COMMIT may be sent with the changes. If the database refuses that, another attempt has to follow.
        applies: whether the lowest accepted writes are decided, and not only those that wait for the products of ``direct``.
        only: the number of the only accepted write to decide.
        pair: the buckets that are here; ``None`` if the service holds all products.
    """

    def __init__(
        self,
        direct: Sequence[WriteRequest],
        patience: Patience | None,
        history: History,
        *,
        clock: Clock = time.monotonic,
        decode: Decode | None,
        again: bool,
        at_once: bool = False,
        applies: bool = False,
        only: int | None = None,
        pair: Pair | None = None,
    ) -> None:
        self._pair = pair
        self._buckets: Buckets | None = None
        """The buckets of this pair as they were read after the locks; ``None`` if the service holds all products."""
        self._patience = patience
        self._history = history
        self._at_once = at_once
        self._clock = clock
        self._direct = direct
        self._decode = decode
        self._applies = applies
        self._only = only
        self.accepted = TakenRows()
        self._again = again
        self._batch: Sequence[WriteRequest] = direct
        self._lines = 0
        self._began = 0.0
        self._stored: dict[tuple[str, str], StoredAnswer] = {}
        self._locked: set[tuple[str, str]] = set()
        self._held: set[str] = set()
        self._blocked: dict[str, Sequence[str]] = {}
        """The products of accepted writes that had to wait, each with the products whose rows they waited for."""
        self._facts = Facts({})
        self._shelf = Shelf(self._facts)
        self.has_rows = False
        """Whether the rows are locked, so that a lock timeout concerns something else."""

    async def run(self, session: Session) -> Committed:
        """Carry out the batch, and return what was committed. A second call begins anew, on another connection.

        Raises ``CommitUnknown``, or, if nothing was committed, ``SourceDeposed`` or a ``DatabaseError``.
        """
        self._began = self._clock()
        self.has_rows = False
        self.accepted = TakenRows()
        await self._lock(session)
        self.has_rows = True
        decisions = self._decide_all()
        while self._shelf.missing:
            await self._read_ended(session)
            decisions = self._decide_all()
        publish_keys = sorted(
            {effect.row.id for effect in self._shelf.closings}
            | {key for decision in decisions if isinstance(decision, (Done, Repeated)) for key in decision.product_ids}
        )
        states: Sequence[State] = ()
        if publish_keys:
            await let_others_run(len(publish_keys))
            before = self._facts.rows
            changes = Changes(before, steps_of(self._batch, decisions, self._shelf, before), decisions, publish_keys)
            if epoch := self._epoch_to_commit_in():
                return await self._commit_at_once(session, changes, epoch)
            decisions, states = await self._change(session, changes)
            await let_others_run(len(publish_keys))
        answers = [
            statement
            for request, decision in zip(self._batch, decisions, strict=True)
            if (statement := store_answer(request, decision)) is not None
        ]
        answers += self._remove_accepted(decisions)
        # The read-back fails if the database no longer accepts this release. A batch that needs none reads the epoch instead.
        ask: Sequence[Statement] = () if publish_keys else ((EPOCH, parameters(PRODUCTS)),)
        if publish_keys or answers:
            await session.commit(*ask, *answers)
        else:  # nothing changed, so nothing has to reach the disk
            await session.pipeline(*ask, ("ROLLBACK", None))
        count = len(self.accepted.seqs)
        return Committed(decisions[count:], states, decisions[:count], len(self.accepted.failures))

    def _decide_all(self) -> Sequence[Decision]:
        """Decide the accepted writes and then the direct ones. A request waits for each earlier one that had to wait."""
        self._batch = [*self.accepted.requests, *self._direct]
        self._lines = 0
        self._shelf, self._blocked, locked = Shelf(self._facts), {}, set(self._locked)
        decisions: list[Decision] = []
        for request, recorded in zip(self.accepted.requests, self.accepted.recorded, strict=True):
            decision = self._decide(request, locked, recorded)
            if isinstance(decision, Postponed):
                self._blocked |= dict.fromkeys(request.command.keys, decision.held or request.command.keys)
            decisions.append(decision)
        self._blocked |= self.accepted.blocked
        return decisions + [self._decide(request, locked) for request in self._direct]

    def _remove_accepted(self, decisions: Sequence[Decision]) -> list[Statement]:
        """Return the statements that delete the accepted writes that were decided, and mark those that failed."""
        done: list[int] = []
        for seq, request, decision in zip(self.accepted.seqs, self.accepted.requests, decisions, strict=False):
            if isinstance(decision, Denied) and store_answer(request, decision) is None:
                self.accepted.failures[seq] = failure_of(decision.refusal)
            elif not isinstance(decision, Postponed):
                done.append(seq)
        failed = self.accepted.failures
        return ([(accepted_queries.APPLIED, {"seqs": done})] if done else []) + (
            [(accepted_queries.FAILED, {"seqs": list(failed), "failures": list(failed.values())})] if failed else []
        )

    async def _lock(self, session: Session) -> None:
        statements = await self._begin(session)
        self._forget_rows()
        ids = {key for request in self._direct for key in request.command.keys}
        named = sorted({key for request in self._direct for key in request.command.reservation_ids})
        reads = any(isinstance(request.command, ReservationCommand | Tidy) for request in self._direct)
        read: Statement = (reservation_queries.READ, {"ids": named})
        if self._decode is None:
            await self._lock_rows(session, statements, self._direct, sorted(ids), named=named, last=read if reads else None)
            return
        if self._applies:
            [*_, rows] = await session.pipeline(*statements, (accepted_queries.TAKE_LOWEST, {"limit": ROWS_AT_ONCE}))
        else:
            if named:  # the products of lines never change, so they may be read before they are locked
                [*_, found] = await session.pipeline(*statements, (accepted_queries.PRODUCTS_OF_RESERVATIONS, {"ids": named}))
                ids, statements = ids.union(key for [key] in found), []
            keys = {"ids": sorted(ids), **_by_key(self._direct)}
            waiting = (accepted_queries.TAKE_BEFORE, {**keys, "limit": ROWS_AT_ONCE + 1})
            rows = await self._lock_rows(session, statements, self._direct, sorted(ids), waiting)
        if rows:
            await self.accepted.add(rows, self._decode, self._only)
            more = sorted({key for request in self.accepted.requests for key in request.command.keys} - self._facts.rows.keys())
            await self._lock_rows(session, [], self.accepted.requests, more)
        if reads:
            self._note_reservations(await session.rows(*read))

    def _forget_rows(self) -> None:
        self._stored, self._locked, self._held, self._blocked = {}, set(), set(), {}
        self._facts = Facts({}, {})

    async def _begin(self, session: Session) -> list[Statement]:
        """Return the first statements of the transaction. Rows that are probably held are waited for at once."""
        if self._patience is None:
            return [("BEGIN", None)]
        begin: list[Statement] = [("BEGIN", None), (queries.LOCK_TIMEOUT, {"timeout": str(self._patience.wait_ms)})]
        wait: Statement = (queries.WAIT, {"ids": list(self._patience.ids)})
        if not self._patience.doubtful:
            return [*begin, wait]
        await session.pipeline(*begin)
        await session.rows(*wait)
        return []

    async def _lock_rows(
        self,
        session: Session,
        before: Sequence[Statement],
        requests: Sequence[WriteRequest],
        ids: Sequence[str],
        waiting: Statement | None = None,
        *,
        named: Sequence[str] = (),
        last: Statement | None = None,
    ) -> list[Any]:
        """Lock the keys of requests and the rows of products; return the rows of ``waiting``, which runs between the two.

        The products of the lines of the reservations ``named`` are locked, too, and ``last`` reads those reservations.
        """
        by_key = _by_key(requests)
        has_keys = bool(by_key["keys"])
        statements = list(before)
        if has_keys:
            statements.append((queries.LOCK_KEYS, by_key))
        if waiting:
            statements.append(waiting)
        if has_keys:
            statements.append((queries.STORED_ANSWERS, by_key))
        locked: Statement = (queries.LOCK, {"ids": ids})
        statements.append((reservation_queries.LOCK, {"ids": ids, "reservations": named}) if named else locked)
        if last:
            statements.append(last)
        statements += [] if self._pair is None else [(pair_queries.READ, None)]
        answers = (await session.pipeline(*statements))[len(before) :]
        self._note_pair(answers)
        if has_keys:
            self._locked |= {(caller, key) for caller, key, granted in answers.pop(0) if granted}
        found = answers.pop(0) if waiting else []
        if has_keys:
            self._stored |= {
                (caller, key): StoredAnswer(request_hash, Answer(code, body, version_tag, location), product_ids)
                for caller, key, request_hash, code, body, version_tag, location, product_ids in answers.pop(0)
            }
        self._note_rows(ids, answers.pop(0))
        if last:
            self._note_reservations(answers.pop(0))
        if self._again:
            newest = await session.rows(queries.NEWEST_MOVEMENTS, {"ids": list(self._facts.rows)})
            self._facts.newest = {**self._facts.newest, **dict(newest)}
        return found

    def _note_pair(self, answers: list[Any]) -> None:
        """Take note of the buckets, which were read after the locks: whoever takes a bucket away waits for them.

        This transaction decides by its own reading: the process may take note of an older one meanwhile.
        """
        if self._pair is not None:
            [(ranges, moving)] = answers.pop() or [("", "")]
            self._buckets = buckets_of(ranges, moving)
            self._pair.note_reading(ranges, moving, self._began)

    def _note_rows(self, ids: Sequence[str], found: Sequence[Sequence[Any]]) -> None:
        rows: dict[str, Row] = {product_id: Gone(product_id, 0) for product_id in ids}
        swept = {}
        for held, product_id, *columns, swept_at in found:
            if held:
                self._held.add(product_id)
                rows.setdefault(product_id, Gone(product_id, 0))
                continue
            rows[product_id] = row_of(product_id, columns)
            if swept_at is not None:
                swept[product_id] = swept_at
        self._facts.rows = {**self._facts.rows, **rows}
        self._facts.swept = {**self._facts.swept, **swept}

    def _note_reservations(self, found: Sequence[Sequence[Any]]) -> None:
        self._facts.moment, self._facts.enabled = found[0][:2]
        self._facts.reservations = {columns[0]: reservation_of(columns) for _, _, *columns in found if columns[0] is not None}

    async def _read_ended(self, session: Session) -> None:
        """Read the ended lines of the products that lack units, and the moment if no command has needed it so far."""
        facts, ids = self._facts, list(self._shelf.missing)
        limit = max(1, MAX_ENDED // len(ids))
        parameters = {
            "ids": ids,
            "known": [facts.moment_of((key,)).isoformat() for key in ids],
            "swept": [facts.swept[key].isoformat() if key in facts.swept else "-infinity" for key in ids],
            "moment": facts.moment.isoformat() if facts.moment is not None else "",
            "limit": limit + 1,
        }
        lines: dict[str, list[EndedLine]] = {key: [] for key in ids}
        for moment, product_id, *columns in await session.rows(reservation_queries.READ_ENDED, parameters):
            facts.moment = moment
            if columns[0] is not None:
                lines[product_id].append(EndedLine(*columns))
        facts.ended |= {key: EndedLines(found[:limit], complete=len(found) <= limit) for key, found in lines.items()}

    def _decide(self, request: WriteRequest, locked: set[tuple[str, str]], recorded: Sequence[str] | None = None) -> Decision:
        """Decide about a request; ``recorded`` are the products of one that was accepted before."""
        key = request.origin.idempotency_key
        if key and (earlier := self._earlier_decision(key, locked)):
            return earlier
        product_ids = self._shelf.products_of(request.command)
        if postponed := self._postponed(request.command, product_ids):
            return postponed
        try:
            if self._buckets is not None and not isinstance(request.command, Tidy):
                self._buckets.check_write(self._shelf.changeable_by(request.command), recorded)
            effects, reservation = self._shelf.decide(request.command, product_ids, self._held)
        except Refused as refusal:
            if recorded is not None and isinstance(refusal, BucketMoving):
                return Postponed()  # its sender was told that it will be decided: this refusal would be kept as its answer
            closed = any(effect.row.id in product_ids for effect in self._shelf.closings)
            return Denied(refusal, closed, product_ids)
        return Done(effects, reservation, product_ids if not isinstance(request.command, Tidy) else ())

    def _postponed(self, command: Command, product_ids: Sequence[str]) -> Postponed | None:
        """Return why a command has to wait; ``None`` if it need not."""
        if self._held and not isinstance(command, Tidy) and (held := sorted(self._held.intersection(product_ids))):
            return Postponed(held)
        if self._blocked and (blocked := self._blocked.keys() & set(product_ids)):
            return Postponed(sorted({held for product_id in blocked for held in self._blocked[product_id]}))
        return Postponed(alone=True) if self._takes_too_long(command) else None

    def _takes_too_long(self, command: Command) -> bool:
        """Return whether a command's reservation has too many lines to be decided beside those of the others.

        The queue cannot know that: the request names the reservation, and only its row says how long it is.
        """
        if not command.reservation_ids or isinstance(command, Tidy):
            return False
        found = self._facts.reservations
        lines = sum([len(found[key].lines) for key in command.reservation_ids if key in found])
        if lines > LONG and self._lines and self._lines + lines > MANY_LINES:
            return True
        self._lines += lines
        return False

    def _earlier_decision(self, key: IdempotencyKey, locked: set[tuple[str, str]]) -> Denied | Repeated | Postponed | None:
        name = (key.caller, key.key)
        if stored := self._stored.get(name):
            if stored.request_hash != key.request_hash:
                return Denied(KeyReused("the idempotency key was used for another request"))
            return Repeated(stored.answer, stored.product_ids)
        if name not in locked:
            return Postponed()
        locked.discard(name)  # a second request of this key in this batch waits for the first one's answer
        return None

    def _epoch_to_commit_in(self) -> str:
        """Return the epoch in which to commit with the changes; empty if the process must check the read-back before COMMIT."""
        if not self._at_once or self.accepted.seqs or self.accepted.failures:
            return ""
        return "" if any(request.origin.idempotency_key for request in self._direct) else self._history.current

    async def _commit_at_once(self, session: Session, changes: Changes, epoch: str) -> Committed:
        """Make the changes, read them back and commit, in one round trip. The database refuses what must not be committed."""
        answers = await session.commit(*changes.statements(epoch))
        try:
            return Committed(*await changes.result(answers))
        except Exception as error:
            raise CommitUnknown(f"the transaction was committed, and its result cannot be told: {error!r}") from error

    async def _change(self, session: Session, changes: Changes) -> tuple[Sequence[Decision], Sequence[State]]:
        """Make the changes and read them back."""
        answers = await session.pipeline(*changes.statements())
        self._history.record(answers[-1][0][0], self._began)
        return await changes.result(answers)


def _by_key(requests: Sequence[WriteRequest]) -> dict[str, Any]:
    sent = [key for request in requests if (key := request.origin.idempotency_key)]
    return {"callers": [key.caller for key in sent], "keys": [key.key for key in sent]}
