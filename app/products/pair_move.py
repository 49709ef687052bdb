"""Moves buckets of products from one database to another, while no instance uses either of them.

Each of these steps is one transaction, or can be done again. A move that broke off is finished by the same call, and until then
no instance starts. One move at a time uses a database. What follows about writers and readers is for an instance that was
overlooked.

1. The source says that the buckets *move*. Whoever writes to them is refused from then on (503 ``bucket-moving``): a writer
   reads that under its locks, and this transaction waits for all earlier ones (``STAND_STILL``). Reads go on.
2. If a unit of their products is held, or an accepted write waits for them, the move is given up.
3. The source turns their products into tombstones and no longer holds the buckets. Their reads are refused, too.
4. The target gets the products, with the versions that follow, and their ledgers, answers and closed reservations.
   It does not hold the buckets yet, so nobody is served from them.
5. The move waits until no earlier fence of either database is live, and no instance goes on with what it read before
   (``GOOD_FOR_S``).
   So no cache of the source answers with old data, and none of the target that has slots from an earlier stay.
6. The target holds the buckets, and then the source says that they no longer move.

To the ledger, the feed and every cache this is a deletion here and a creation there, and the versions go on.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import LiteralString

from app.buckets import bucket_of, parse_ranges, ranges_of
from app.postgres.database import Database, Session
from app.products import pair_queries
from app.products.pair import GOOD_FOR_S

REFERENCE = "larder buckets move"
"""The reference of both entries in the ledger."""
MARGIN_S = 0.25
_PAGE = 1_000
_WAITING_S = 10.0
"""How long accepted writes may take to be decided."""


class CannotMove(Exception):
    """The buckets cannot be moved now; nothing was changed."""


@dataclass(frozen=True, slots=True)
class _State:
    held: frozenset[int]
    moving: frozenset[int]


class Move:
    """One move.

    Args:
        source: the database that holds the buckets.
        target: the database that is to hold them.
        numbers: the buckets.
        say: tells the operator what happens.
        good_for_s: how long an instance may go on with what it has read.
    """

    def __init__(
        self,
        source: Database,
        target: Database,
        numbers: frozenset[int],
        say: Callable[[str], None],
        *,
        good_for_s: float = GOOD_FOR_S,
    ) -> None:
        self._good_for_s = good_for_s
        self._source = source
        self._target = target
        self._numbers = numbers
        self._say = say

    async def run(self) -> int:
        """Move, or finish a move that broke off; return how many products there are in the buckets.

        Raises:
            CannotMove: nothing was changed.
            DatabaseError: the move may have begun; the same call finishes it.
        """
        async with _alone(self._source), _alone(self._target):
            return await self._run()

    async def _run(self) -> int:
        here, there = await _state(self._source, "source"), await _state(self._target, "target")
        numbers = self._numbers
        has_left = numbers <= here.moving and not numbers & here.held
        if numbers <= here.held and not numbers & there.held:
            await self._hold_up()
            await self._leave()
        elif not has_left or (numbers & there.held and not numbers <= there.held):
            raise CannotMove(
                f"the source holds {ranges_of(here.held) or 'none'} and the target holds {ranges_of(there.held) or 'none'}"
            )
        moved = 0
        if not numbers <= there.held:
            moved = await self._enter()
            await self._until_forgotten()
            await _change(self._target, lambda state: _State(state.held | self._numbers, state.moving - self._numbers))
        await _change(self._source, lambda state: _State(state.held, state.moving - self._numbers))
        return moved

    async def _hold_up(self) -> None:
        await _change(self._source, lambda state: _State(state.held, state.moving | self._numbers), still=True)
        self._say("writes are refused from now on")
        try:
            await asyncio.sleep(self._good_for_s)  # from now on nothing is accepted for later, either
            await self._check_idle()
        except BaseException:
            await _change(self._source, lambda state: _State(state.held, state.moving - self._numbers))
            raise

    async def _check_idle(self) -> None:
        """Check that nothing is held, and wait until nothing waits. Raises ``CannotMove``."""
        end = asyncio.get_running_loop().time() + _WAITING_S
        while True:
            held = await self._ours(pair_queries.HELD_PRODUCTS)
            waiting = await self._ours(pair_queries.WAITING_PRODUCTS)
            named = [text async for page in _pages(self._source, pair_queries.RESERVATIONS) for [text] in page]
            open_ones = [text for text in named if bucket_of(text) in self._numbers]
            if not held and not waiting and not open_ones:
                return
            if held or open_ones:
                first = f"units of {held[0]} are held" if held else f"the reservation {open_ones[0]} is open"
                raise CannotMove(f"{first}: wait until the reservations of these buckets have ended, or release them")
            if asyncio.get_running_loop().time() > end:
                raise CannotMove(f"an accepted write for {waiting[0]} waits to be decided")
            await asyncio.sleep(MARGIN_S)

    async def _ours(self, statement: LiteralString) -> list[str]:
        rows = await self._source.lists.rows(statement)
        return [str(text) for [text] in rows if bucket_of(str(text)) in self._numbers]

    async def _leave(self) -> None:
        """Turn the products into tombstones and give the buckets up, in one transaction."""
        ids = [
            str(text)
            async for page in _pages(self._source, pair_queries.PRODUCTS)
            for [text] in page
            if bucket_of(str(text)) in self._numbers
        ]
        async with _transaction(self._source) as session:
            for start in range(0, len(ids), _PAGE):
                some = {"ids": ids[start : start + _PAGE], "reference": REFERENCE}
                await session.rows(pair_queries.RECORD_LEAVING, some)
                await session.rows(pair_queries.LEAVE, some)
            state = _state_of(await session.rows(pair_queries.LOCKED), "source")
            if not self._numbers <= state.held & state.moving:
                raise CannotMove(f"the source holds {ranges_of(state.held) or 'none'}, which another command has changed")
            await _say(session, _State(state.held - self._numbers, state.moving))
        self._say(f"{len(ids)} products have left; reads are refused until they have arrived")

    async def _enter(self) -> int:
        """Bring everything to the target, in one transaction; return the number of its products."""
        count = 0
        async with _transaction(self._target) as session:
            state = _state_of(await session.rows(pair_queries.LOCKED), "target")
            if state.held & self._numbers:
                raise CannotMove(f"the target holds {ranges_of(state.held)}, which another command has changed")
            async for page in _pages(self._source, pair_queries.ROWS, reference=REFERENCE):
                ours = [(text, row) for text, row in page if bucket_of(text) in self._numbers]
                if not ours:
                    continue
                ids, rows = [text for text, _ in ours], _array([row for _, row in ours])
                ledger = await self._source.lists.rows(pair_queries.LEDGER, {"ids": ids})
                await session.rows(pair_queries.ADD_LEDGER, {"rows": _array([row for [row] in ledger])})
                await session.rows(pair_queries.RECORD_ENTERING, {"rows": rows, "reference": REFERENCE})
                await session.rows(pair_queries.ENTER, {"rows": rows})
                count += sum('"left": null' not in row for _, row in ours)
            await self._bring_reservations(session)
            await self._bring_answers(session)
        return count

    async def _bring_reservations(self, session: Session) -> None:
        async for page in _pages(self._source, pair_queries.CLOSED, column=1):
            ours = [(row, text) for row, text in page if bucket_of(text) in self._numbers]
            if ours:
                lines = await self._source.lists.rows(pair_queries.LINES, {"ids": [text for _, text in ours]})
                await session.rows(pair_queries.ADD_CLOSED, {"rows": _array([row for row, _ in ours])})
                await session.rows(pair_queries.ADD_LINES, {"rows": _array([row for [row] in lines])})

    async def _bring_answers(self, session: Session) -> None:
        caller, key = "", ""
        while True:
            named = {"caller": caller, "key": key, "limit": _PAGE}
            page = await self._source.lists.rows(pair_queries.ANSWERS, named)
            ours = [row for row, ids, *_ in page if any(bucket_of(text) in self._numbers for text in ids)]
            if ours:
                await session.rows(pair_queries.ADD_ANSWERS, {"rows": _array(ours)})
            if len(page) < _PAGE:
                return
            *_, caller, key = page[-1]

    async def _until_forgotten(self) -> None:
        """Wait until in neither database a cache is trusted by an earlier proof, and no instance relies on an old reading."""
        fences = [(await database.lists.rows(pair_queries.FENCED_S))[0][0] for database in (self._source, self._target)]
        await asyncio.sleep(max(self._good_for_s, *fences) + MARGIN_S)


@asynccontextmanager
async def _alone(database: Database) -> AsyncIterator[None]:
    """Keep other moves away from a database. Raises ``CannotMove`` if there is one."""
    async with database.writes.session() as session:
        await session.pipeline(("BEGIN", None))
        [[free, _]] = await session.rows(pair_queries.LOCK_MOVES)
        if not free:
            raise CannotMove("another move of buckets uses one of the databases")
        try:
            yield
        finally:
            await session.commit()  # there is nothing to commit; it gives the lock back


async def _state(database: Database, name: str) -> _State:
    return _state_of(await database.lists.rows(pair_queries.READ), name)


def _state_of(rows: Sequence[Sequence[str]], name: str) -> _State:
    if not rows:
        raise CannotMove(f"the {name} was never given buckets: `larder buckets set` does that")
    [[held, moving]] = rows
    return _State(parse_ranges(held), parse_ranges(moving))


async def _change(database: Database, become: Callable[[_State], _State], *, still: bool = False) -> None:
    async with _transaction(database) as session:
        if still:
            await session.rows(pair_queries.STAND_STILL)
        await _say(session, become(_state_of(await session.rows(pair_queries.LOCKED), "database")))


async def _say(session: Session, state: _State) -> None:
    await session.rows(pair_queries.SAY, {"held": ranges_of(state.held), "moving": ranges_of(state.moving)})


@asynccontextmanager
async def _transaction(database: Database) -> AsyncIterator[Session]:
    async with database.writes.session() as session:
        await session.pipeline(("BEGIN", None), (pair_queries.LOCK_WAIT, None))
        yield session
        await session.commit()


async def _pages(
    database: Database, statement: LiteralString, column: int = 0, **named: str
) -> AsyncIterator[Sequence[Sequence[str]]]:
    """Yield the rows of a statement that goes on after the greatest id, which is in a column."""
    after = ""
    while True:
        parameters = {**named, "after": after, "limit": _PAGE}
        page = await database.lists.rows(statement, parameters)
        if page:
            yield page
            after = str(page[-1][column])
        if len(page) < _PAGE:
            return


def _array(rows: Sequence[str]) -> str:
    return f"[{','.join(rows)}]"
