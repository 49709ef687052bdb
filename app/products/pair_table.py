"""The buckets that a database holds, as the database says it itself. ``larder buckets`` writes that."""

import asyncio
from collections.abc import AsyncIterator
from typing import LiteralString

from app.buckets import bucket_of, parse_ranges
from app.postgres.database import Database, Session
from app.products import accepted_queries, pair_queries

_PAGE = 10_000
_LOOKS = 10
_PAUSE_S = 0.05
"""Between two looks for connections. PostgreSQL shows those that were closed, such as this command's own, a moment longer."""
BURIED = "larder buckets set --bury"
"""The reference of a burial in the ledger, and the reason why an accepted write failed."""


class InUse(Exception):
    """Instances of Larder use the database, and they would go on with the earlier buckets."""


class MoveUnfinished(Exception):
    """A move of buckets is under way in the database, or broke off."""


class HoldsOthers(Exception):
    """The database has products, open reservations or waiting writes of buckets that it is not to hold."""


async def held_buckets(database: Database) -> tuple[str, str] | None:
    """Return the buckets that the database holds, and those that move to another one; ``None`` if it was never given a part.

    Raises a ``DatabaseError``.
    """
    async with database.lists.session() as session:
        [[is_there]] = await session.rows(pair_queries.IS_THERE)
        rows = await session.rows(pair_queries.READ) if is_there else []
    return (str(rows[0][0]), str(rows[0][1])) if rows else None


async def hold(database: Database, ranges: str, *, bury: bool = False) -> int:
    """Record that a database which no instance uses holds these buckets and no others.

    With ``bury``, products of other buckets become tombstones, their units that are held are given back, and accepted writes
    for them are marked as failed. That is for a database which was restored to a time before these buckets moved away.

    Returns how many products were buried.

    Raises:
        InUse, HoldsOthers, MoveUnfinished: nothing was changed.
        DatabaseError: nothing was changed.
    """
    numbers = parse_ranges(ranges)
    async with database.lists.session() as session:
        await _check_unused(session)
        await session.pipeline(("BEGIN", None), (pair_queries.BEGIN, None))
        found = await session.rows(pair_queries.LOCKED)
        buried = await _bury(session, numbers) if bury else 0
        if found and found[0][1] and not bury:
            raise MoveUnfinished(f"the buckets {found[0][1]} move to or from another database")
        await _check_others(session, numbers)
        await session.commit((pair_queries.HOLD, {"held": ranges}))
    return buried


async def _bury(session: Session, numbers: frozenset[int]) -> int:
    ids = [text async for text in _ids(session, pair_queries.PRODUCTS) if bucket_of(text) not in numbers]
    for start in range(0, len(ids), _PAGE):
        some = {"ids": ids[start : start + _PAGE], "reference": BURIED}
        for statement in (pair_queries.RECORD_LEAVING, pair_queries.CLOSE_LINES, pair_queries.LEAVE):
            await session.rows(statement, some)
    waiting = await session.rows(pair_queries.WAITING)
    seqs = [seq for seq, named in waiting if any(bucket_of(text) not in numbers for text in named)]
    await session.rows(accepted_queries.FAILED, {"seqs": seqs, "failures": [BURIED] * len(seqs)})
    return len(ids)


async def _check_others(session: Session, numbers: frozenset[int]) -> None:
    """Check that nothing is in another bucket. Raises ``HoldsOthers``."""
    for kind, statement in (("product", pair_queries.PRODUCTS), ("open reservation", pair_queries.RESERVATIONS)):
        others = [text async for text in _ids(session, statement) if bucket_of(text) not in numbers]
        if others:
            raise HoldsOthers(
                f"{len(others)} {kind}s are in other buckets; the first is {others[0]}, in bucket {bucket_of(others[0])}"
            )
    waiting = await session.rows(pair_queries.WAITING_PRODUCTS)
    if others := [str(text) for [text] in waiting if bucket_of(str(text)) not in numbers]:
        raise HoldsOthers(f"an accepted write for {others[0]}, in bucket {bucket_of(others[0])}, waits to be decided")


async def _check_unused(session: Session) -> None:
    [[connections, trusted]] = await session.rows(pair_queries.IN_USE)
    for _ in range(_LOOKS):
        if trusted or not connections:
            break
        await asyncio.sleep(_PAUSE_S)
        [[connections, trusted]] = await session.rows(pair_queries.IN_USE)
    if connections or trusted:
        audited = "an audit ran a moment ago" if trusted else "no audit ran in the last seconds"
        raise InUse(f"{connections} connections of Larder are open, and {audited}")


async def _ids(session: Session, statement: LiteralString) -> AsyncIterator[str]:
    after = ""
    while True:
        page = [str(text) for [text] in await session.rows(statement, {"after": after, "limit": _PAGE})]
        for text in page:
            yield text
        if len(page) < _PAGE:
            return
        after = page[-1]
