"""Accepting requests to be decided later, and telling what became of them, in PostgreSQL."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from app.cache.batcher import Batcher
from app.cache.history import CheckEpoch
from app.cache.postgres.table_queries import EPOCH, parameters
from app.postgres.database import Database, Session, Statement
from app.products import accepted_queries, pair_queries, queries
from app.products.accepted import (
    MOST_AGE_S,
    MOST_ROWS,
    AcceptedStats,
    AcceptedWrite,
    BacklogFull,
    Decided,
    Failed,
    Found,
    Queued,
)
from app.products.errors import KeyReused, Refused, RequestInProgress
from app.products.idempotency import Answer
from app.products.pair import Buckets, Pair, buckets_of
from app.products.payload import SCHEMA
from app.products.source import PRODUCTS, row_of, state_of

MAX_RETRY_S = 60
_BATCH = 200
Accepted = Queued | Decided


class Acceptance:
    """Accepts requests, many in one transaction, and looks after them. No request here waits for a product's row.

    Args:
        database: where they are kept.
        check_epoch: raises if nothing may be committed in an epoch.
        stats: what to count in.
        queue_limit: most requests that wait for a transaction.
        most_rows: number of waiting accepted writes at which nothing more is accepted.
        clock: a monotonic clock.
        pair: the buckets that are here; ``None`` if the service holds all products.
    """

    def __init__(
        self,
        database: Database,
        check_epoch: CheckEpoch,
        stats: AcceptedStats,
        *,
        queue_limit: int,
        most_rows: int = MOST_ROWS,
        clock: Callable[[], float] = time.monotonic,
        pair: Pair | None = None,
    ) -> None:
        self._pair = pair
        self._writes = database.writes
        self._lists = database.lists
        self._check_epoch = check_epoch
        self._stats = stats
        self._most_rows = most_rows
        self._clock = clock
        self._batcher: Batcher[AcceptedWrite, Accepted] = Batcher(
            self._send, max_weight=_BATCH, queue_limit=queue_limit, yields=5
        )
        self._rate = 0.0
        self._seen: tuple[float, int] | None = None

    async def accept(self, write: AcceptedWrite) -> Accepted:
        """Return once the request is committed, or was before. ``Decided`` means that it has been answered already.

        Raises:
            KeyReused, RequestInProgress: nothing was accepted.
            BucketMoving, NotHere, SeveralPairs: nothing was accepted, because of a bucket of its products.
            BacklogFull, Overloaded: nothing was accepted.
            CommitUnknown: it was accepted or not; a repetition with the same key finds out.
            DatabaseError: nothing was accepted.
        """
        if self._stats.rows >= self._most_rows or self._stats.oldest_s >= MOST_AGE_S:
            raise BacklogFull(self.retry_after_s)
        return await self._batcher.submit(write)

    @property
    def retry_after_s(self) -> int:
        """When the backlog will have been applied, at the rate of the last seconds; at most a minute."""
        return max(1, min(MAX_RETRY_S, round(self._stats.rows / self._rate))) if self._rate else MAX_RETRY_S

    async def measure(self) -> None:
        """Read how much waits, and how fast it is applied. Raises a ``DatabaseError``."""
        async with self._lists.session() as session:
            [(rows, oldest_s, failed, newest)] = await session.rows(accepted_queries.BACKLOG, {"limit": self._most_rows})
        stats, now = self._stats, self._clock()
        stats.rows, stats.oldest_s, stats.failed_rows = rows, oldest_s, failed
        if newest is None:
            self._seen = None
            return
        applied = newest - rows
        if self._seen is not None and now > self._seen[0]:
            self._rate = max(0.0, (applied - self._seen[1]) / (now - self._seen[0]))
        self._seen = now, applied

    async def find(self, caller: str, key: str) -> Found:
        """Return what became of a request. If it was decided, the present rows come with it. Raises a ``DatabaseError``."""

        async def read(session: Session) -> Found:
            return await self._find(session, {"callers": [caller], "keys": [key]})

        return await self._writes.run(read)

    async def mark_failed(self, seq: int, reason: str) -> bool:
        """Mark one row, which is kept; ``False`` if it does not wait. Raises a ``DatabaseError``."""
        async with self._lists.session() as session:
            return bool(await session.rows(accepted_queries.FAILED, {"seqs": [seq], "failures": [reason[:1_000]]}))

    async def aclose(self) -> None:
        """Finish what was submitted."""
        await self._batcher.aclose()

    async def _find(self, session: Session, by_key: dict[str, Any]) -> Found:
        began = self._clock()
        # In this order: a row that is no longer accepted has its answer in the later snapshot.
        _, waiting, answered = await session.pipeline(
            ("BEGIN", None), (accepted_queries.ACCEPTED, by_key), (queries.STORED_ANSWERS, by_key)
        )
        ids = answered[0][-1] if answered else []
        loaded, *_ = await session.pipeline(
            (queries.READ_BACK, {"ids": ids, "knows": SCHEMA, "epoch": ""}) if ids else (EPOCH, parameters(PRODUCTS)),
            ("ROLLBACK", None),
        )
        self._check_epoch(loaded[0][0], began)
        if answered:
            _, _, _, code, body, version_tag, location, _ = answered[0]
            states = [state_of(row_of(product_id, columns), epoch) for epoch, product_id, *columns in loaded] if ids else []
            return Found(Decided(Answer(code, body, version_tag, location)), states)
        if not waiting:
            return Found(None)
        failure = waiting[0][-1]
        return Found(Queued() if failure is None else Failed(failure))

    async def _send(self, batch: Sequence[AcceptedWrite]) -> Sequence[Accepted | Exception]:
        async def insert(session: Session) -> Sequence[Accepted | Exception]:
            return await self._insert(session, batch)

        return await self._writes.run(insert)

    async def _insert(self, session: Session, batch: Sequence[AcceptedWrite]) -> Sequence[Accepted | Exception]:
        by_key = {"callers": [write.caller for write in batch], "keys": [write.key for write in batch]}
        began = self._clock()
        # The lock comes before the buckets are read: a move waits for those who had it when it began.
        paired: Sequence[Statement] = (
            () if self._pair is None else ((pair_queries.ACCEPT_LOCK, None), (pair_queries.READ, None))
        )
        _, *found, locked, answered, waiting, epoch = await session.pipeline(
            ("BEGIN", None),
            *paired,
            (queries.LOCK_KEYS, by_key),
            (queries.STORED_ANSWERS, by_key),
            (accepted_queries.ACCEPTED, by_key),
            (EPOCH, parameters(PRODUCTS)),
        )
        self._check_epoch(epoch[0][0], began)
        buckets = buckets_of(*(found[-1] or [("", "")])[0]) if found else None
        free = {(caller, key) for caller, key, granted in locked if granted}
        answers: dict[tuple[str, str], tuple[bytes, Accepted]] = {
            (caller, key): (request_hash, Decided(Answer(*answer))) for caller, key, request_hash, *answer, _ in answered
        }
        answers |= {(caller, key): (request_hash, Queued()) for caller, key, request_hash, _ in waiting}
        outcomes: list[Accepted | Exception] = []
        new: list[AcceptedWrite] = []
        for write in batch:
            name = (write.caller, write.key)
            if name not in free:
                outcomes.append(RequestInProgress("another request with this idempotency key is not finished"))
            elif name not in answers and (refusal := _refusal_of(buckets, write)) is not None:
                outcomes.append(refusal)
            elif name not in answers:
                answers[name] = write.request_hash, Queued()
                new.append(write)
                outcomes.append(Queued())
            elif answers[name][0] != write.request_hash:
                outcomes.append(KeyReused("the idempotency key was used for another request"))
            else:
                outcomes.append(answers[name][1])
        if new:
            await session.commit((accepted_queries.ACCEPT, _columns(new)))
            self._stats.accepted += len(new)
        else:
            await session.pipeline(("ROLLBACK", None))
        return outcomes


def _refusal_of(buckets: Buckets | None, write: AcceptedWrite) -> Refused | None:
    """Return why a new request may not be accepted here now."""
    try:
        if buckets is not None:
            buckets.check(write.product_ids, writes=True)
    except Refused as refusal:
        return refusal
    return None


def _columns(writes: Sequence[AcceptedWrite]) -> dict[str, Any]:
    return {
        "callers": [write.caller for write in writes],
        "keys": [write.key for write in writes],
        "hashes": [write.request_hash for write in writes],
        "product_ids": [" ".join(write.product_ids) for write in writes],
        "operations": [write.operation for write in writes],
        "targets": [write.target for write in writes],
        "conditions": [write.conditions for write in writes],
        "bodies": [write.body for write in writes],
        "request_ids": [write.request_id for write in writes],
    }
