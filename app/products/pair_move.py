"""Moves buckets of products from one database to another, while instances serve both.

Each of these steps is one transaction, or can be done again. A move that broke off is finished by the same call. A database has
one move at a time. Both have the id of the move from step 3 to the end, and every step looks for it under the lock of the row.
So no step of an earlier move is carried out in a later one. A move that is begun again in step 1 or 2 gets a new id.

1. The source says that the buckets *move*. From then on no write to them is begun or accepted (503 ``bucket-moving``), because
   a writer reads that after it has its locks. The move waits until every transaction has ended that had such a lock before.
   What was accepted before is still decided. Reads go on.
2. If a unit of their products is held, or an accepted write is not decided in time, the move is given up. Once nothing is
   held and nothing waits, nothing can be added. Stored answers and closed reservations are brought to the target.
3. The target says that it receives the buckets, and the source that it no longer holds them. Their reads are refused, too.
4. The move waits until no process of the source relies on an earlier reading (``GOOD_FOR_S``). Until then a read may show the
   products as they were, and nobody changes them.
5. The source turns the products into tombstones.
6. The target gets the products, with the versions that follow, and their ledgers. It does not hold the buckets yet, so nobody
   is served from them.
7. The move waits until no earlier fence of either database is live. So no cache of the source answers with old data, and none
   of the target that has slots from an earlier stay.
8. The target holds the buckets, and then the source says that they no longer move: 421 from then on.

To the ledger, the feed and every cache this is a deletion here and a creation there, and the versions go on.
docs/TOPOLOGIES.md has what each kind of request is answered in each step, and what is there if the move breaks off.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
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
_PAGE_OF_IDS = 10_000
_WAITING_S = 10.0
"""How long earlier transactions may take to end, and accepted writes to be decided."""
_POLL_S = 0.02
_NOBODY: frozenset[int] = frozenset()


class CannotMove(Exception):
    """The buckets cannot be moved now; nothing was changed."""


class BrokenOff(Exception):
    """The move cannot go on from here, because somebody has changed what it relies on."""


@dataclass(frozen=True, slots=True)
class _State:
    """What a database says: its buckets, and the buckets and the id of a move that is not finished."""

    held: frozenset[int]
    moving: frozenset[int] = _NOBODY
    move: str = ""


Tell = Callable[[str], Awaitable[None]]


class Move:
    """One move.

    Args:
        source: the database that holds the buckets.
        target: the database that is to hold them.
        numbers: the buckets.
        tell: tells the operator how far it came.
        good_for_s: how long an instance may go on with what it has read.
        waiting_s: how long earlier transactions and accepted writes may take to end.
    """

    def __init__(
        self,
        source: Database,
        target: Database,
        numbers: frozenset[int],
        tell: Tell,
        *,
        good_for_s: float = GOOD_FOR_S,
        waiting_s: float = _WAITING_S,
    ) -> None:
        self._good_for_s = good_for_s
        self._waiting_s = waiting_s
        self._source = source
        self._target = target
        self._numbers = numbers
        self._tell = tell
        self._move = uuid.uuid4().hex

    async def run(self) -> int:
        """Move, or finish a move that broke off; return how many products there are in the buckets.

        Raises:
            CannotMove: nothing was changed.
            BrokenOff, DatabaseError: the move may have begun; the same call finishes it.
        """
        async with _alone(self._source), _alone(self._target):
            return await self._run()

    async def _run(self) -> int:
        here, there = await _state(self._source, "source"), await _state(self._target, "target")
        numbers = self._numbers
        has_left = here.moving == numbers and not numbers & here.held
        for name, state in (("source", here), ("target", there)):
            if state.moving and state.moving != numbers:
                raise CannotMove(f"a move of {ranges_of(state.moving)} is not finished in the {name}: finish it first")
        if numbers <= here.held and not numbers & there.held:
            await self._prepare(here)
            await self._give_up()
        elif has_left and numbers <= there.held:
            self._move = here.move
            await self._check_empty(CannotMove)
        elif has_left and there.move == here.move:
            self._move = here.move
        elif has_left:
            raise CannotMove("the target neither holds the buckets nor receives them; they were being moved to another one")
        else:
            raise CannotMove(
                f"the source holds {ranges_of(here.held) or 'none'} and the target holds {ranges_of(there.held) or 'none'}"
            )
        moved = 0
        if not numbers <= there.held:
            left = await self._leave()
            moved = await self._enter()
            if moved < left:
                raise BrokenOff(f"{left} products have left, and {moved} of them were found: has the database failed over?")
            await self._tell(f"{moved} products have arrived")
            await self._until_forgotten()
            await self._hand_over()
        await self._change(self._source, lambda state: _State(state.held))
        return moved

    async def _prepare(self, here: _State) -> None:
        """Refuse writes, wait for the earlier ones, and bring what can be brought while reads go on. Undo it if that fails."""
        if not here.move:
            await self._check_free()

        def begin(state: _State) -> _State:
            if state != here:
                raise CannotMove("another command has changed the buckets of the source")
            return _State(state.held, self._numbers, self._move)

        def receive(state: _State) -> _State:
            if self._numbers & state.held or state.moving not in (_NOBODY, self._numbers):
                raise CannotMove(f"the target holds {ranges_of(state.held)}, which another command has changed")
            return _State(state.held, self._numbers, self._move)

        await _change(self._source, begin)
        await self._tell("writes are refused from now on")
        try:
            await self._until_writers_ended()
            await self._until_decided()
            await self._check_free()
            await self._bring_others()
            await self._tell("nothing is held, and nothing waits to be decided")
            await _change(self._target, receive)
        except BaseException:
            await self._undo()
            raise

    async def _undo(self) -> None:
        """Take the refusal of writes back, unless another command has taken over."""
        undone = False

        def undo_source(state: _State) -> _State:
            nonlocal undone
            undone = state.move == self._move and self._numbers <= state.held
            return _State(state.held) if undone else state

        await _change(self._source, undo_source)
        if undone:
            await _change(self._target, lambda state: _State(state.held) if state.move == self._move else state)

    async def _until_writers_ended(self) -> None:
        """Wait until every transaction has ended that may have read the buckets before they began to move.

        Raises ``CannotMove``.
        """
        end = asyncio.get_running_loop().time() + self._waiting_s
        left = await self._writers()
        while left:
            if asyncio.get_running_loop().time() > end:
                raise CannotMove("a transaction that has changed or locked products does not end")
            await asyncio.sleep(_POLL_S)
            left &= await self._writers()

    async def _writers(self) -> set[str]:
        return {str(text) for [text] in await self._source.lists.rows(pair_queries.WRITERS)}

    async def _check_free(self) -> None:
        """Check that no open reservation is in the buckets or has a line for their products. Raises ``CannotMove``."""
        held = await self._ours(pair_queries.HELD_PRODUCTS)
        named = [text async for page in _pages(self._source, pair_queries.RESERVATIONS) for [text] in page]
        open_ones = [text for text in named if bucket_of(text) in self._numbers]
        if held or open_ones:
            first = (
                f"units of {held[0]} are held, or were by a reservation that is still open"
                if held
                else f"the reservation {open_ones[0]} is open"
            )
            raise CannotMove(f"{first}: wait until all reservations with a line of these buckets have ended, or release them")

    async def _until_decided(self) -> None:
        """Wait until no accepted write waits for one of the products. Raises ``CannotMove``."""
        end = asyncio.get_running_loop().time() + self._waiting_s
        while waiting := await self._ours(pair_queries.WAITING_PRODUCTS):
            if asyncio.get_running_loop().time() > end:
                raise CannotMove(f"an accepted write for {waiting[0]} waits to be decided")
            await asyncio.sleep(_POLL_S)

    async def _ours(self, statement: LiteralString) -> list[str]:
        rows = await self._source.lists.rows(statement)
        return [str(text) for [text] in rows if bucket_of(str(text)) in self._numbers]

    async def _give_up(self) -> None:
        """Let the source no longer hold the buckets, which the target receives."""
        await self._change(self._source, lambda state: _State(state.held - self._numbers, state.moving, state.move))
        await self._tell("reads are refused, too, until the products have arrived")

    async def _leave(self) -> int:
        """Turn the products into tombstones, when no process of the source relies on what it read before.

        Returns how many there were.
        """
        _, ids = await asyncio.gather(asyncio.sleep(self._good_for_s + MARGIN_S), self._products())
        async with _transaction(self._source) as session:
            self._own(await _locked(session))
            for start in range(0, len(ids), _PAGE):
                some = {"ids": ids[start : start + _PAGE], "reference": REFERENCE}
                await session.rows(pair_queries.RECORD_LEAVING, some)
                await session.rows(pair_queries.LEAVE, some)
        await self._tell(f"{len(ids)} products have left")
        return len(ids)

    async def _products(self) -> list[str]:
        """Return the ids of the products that live in the source. Since writes are refused, nobody can add one."""
        pages = _pages(self._source, pair_queries.PRODUCTS, size=_PAGE_OF_IDS)
        return [str(text) async for page in pages for [text] in page if bucket_of(str(text)) in self._numbers]

    async def _check_empty(self, error: type[Exception]) -> None:
        """Check that no product of the buckets lives in the source, as after a restore. Raises ``error``."""
        if ids := await self._products():
            raise error(
                f"{ids[0]} lives in the source, which has given its bucket up. If the source was restored to a time within the"
                " move, and the target has the newer products: `larder buckets set … --bury` in the source"
            )

    async def _enter(self) -> int:
        """Bring the products and their ledgers to the target, in one transaction; return the number of the products."""
        count = 0
        async with _transaction(self._target) as session:
            self._own(await _locked(session))
            async for page in _pages(self._source, pair_queries.ROWS, reference=REFERENCE):
                ours = [(text, row) for text, row in page if bucket_of(text) in self._numbers]
                if not ours:
                    continue
                ids, rows = [text for text, _ in ours], _array([row for _, row in ours])
                ledger = await self._source.lists.rows(pair_queries.LEDGER, {"ids": ids})
                await session.rows(pair_queries.ADD_LEDGER, {"rows": _array([row for [row] in ledger])})
                await session.rows(pair_queries.RECORD_ENTERING, {"rows": rows, "reference": REFERENCE})
                await session.rows(pair_queries.ENTER, {"rows": rows})
                if older := await session.rows(pair_queries.OLDER, {"rows": rows}):
                    raise BrokenOff(f"the target has an older product {older[0][0]}, which lives")
                count += sum('"left": null' not in row for _, row in ours)
        return count

    async def _bring_others(self) -> None:
        """Bring closed reservations and stored answers to the target. Since writes are refused, none of them changes."""
        async with _transaction(self._target) as session:
            await self._bring_reservations(session)
            await self._bring_answers(session)

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
                if others := await session.rows(pair_queries.OTHER_ANSWERS, {"rows": _array(ours)}):
                    raise CannotMove(f"the target keeps the answer to another request under the idempotency key {others[0][0]}")
                await session.rows(pair_queries.ADD_ANSWERS, {"rows": _array(ours)})
            if len(page) < _PAGE:
                return
            *_, caller, key = page[-1]

    async def _until_forgotten(self) -> None:
        """Wait until in neither database a cache is trusted by a proof of before."""
        fences = [(await database.lists.rows(pair_queries.FENCED_S))[0][0] for database in (self._source, self._target)]
        await asyncio.sleep(max(fences) + MARGIN_S)

    async def _hand_over(self) -> None:
        """Let the target hold the buckets."""
        if self._own(await _state(self._source, "source")).held & self._numbers:
            raise BrokenOff("the source holds the buckets again")
        await self._check_empty(BrokenOff)
        await self._change(self._target, lambda state: _State(state.held | self._numbers))
        await self._tell("the other database holds them")

    async def _change(self, database: Database, become: Callable[[_State], _State]) -> None:
        """Change what a database says about this move. Raises ``BrokenOff`` if another command has changed it."""
        await _change(database, lambda state: become(self._own(state)))

    def _own(self, state: _State) -> _State:
        """Return the state if this move is under way in it. Raises ``BrokenOff``."""
        if (state.moving, state.move) != (self._numbers, self._move):
            raise BrokenOff("another command has finished this move, or has taken it back")
        return state


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
    return _state_of(await database.lists.rows(pair_queries.STATE), name)


async def _locked(session: Session) -> _State:
    return _state_of(await session.rows(pair_queries.LOCKED), "database")


def _state_of(rows: Sequence[Sequence[str]], name: str) -> _State:
    if not rows:
        raise CannotMove(f"the {name} was never given buckets: `larder buckets set` does that")
    [[held, moving, move]] = rows
    return _State(parse_ranges(held), parse_ranges(moving), move)


async def _change(database: Database, become: Callable[[_State], _State]) -> None:
    async with _transaction(database) as session:
        state = become(await _locked(session))
        said = {"held": ranges_of(state.held), "moving": ranges_of(state.moving), "move": state.move}
        await session.rows(pair_queries.SAY, said)


@asynccontextmanager
async def _transaction(database: Database) -> AsyncIterator[Session]:
    async with database.writes.session() as session:
        await session.pipeline(("BEGIN", None), (pair_queries.BEGIN, None))
        yield session
        await session.commit()


async def _pages(
    database: Database, statement: LiteralString, column: int = 0, size: int = _PAGE, **named: str
) -> AsyncIterator[Sequence[Sequence[str]]]:
    """Yield the rows of a statement that goes on after the greatest id, which is in a column."""
    after = ""
    while True:
        parameters = {**named, "after": after, "limit": size}
        page = await database.lists.rows(statement, parameters)
        if page:
            yield page
            after = str(page[-1][column])
        if len(page) < size:
            return


def _array(rows: Sequence[str]) -> str:
    return f"[{','.join(rows)}]"
