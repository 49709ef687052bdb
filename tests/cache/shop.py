"""Two processes on one catalogue: one writes, and its cache may fail; the other one reads all the time, and is judged."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

import psycopg

from app.cache import slot
from app.cache.ports import State, Value
from app.cache.write_through import Status
from app.products.commands import Command, Effect
from app.products.decision import Denied, Done
from app.products.errors import Refused
from app.products.idempotency import WriteRequest
from app.products.payload import product_payload
from app.products.product import Draft, Gone, Product
from app.products.reservation import Reservation
from app.products.reservation_commands import ReservationCommand
from app.products.source import row_of
from app.products.transaction import Committed
from tests.cache.conftest import Slots
from tests.cache.rig import Process, until
from tests.harness.checker import Read, Write, check

Failure = TypeVar("Failure", bound=Exception)

REFUSED = "refused"
"""A name that PostgreSQL refuses when its transaction commits."""
KEPT = "kept"
"""The name of a product that PostgreSQL refuses to delete, when the transaction commits."""

COMMIT_FAILS = f"""
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the test refuses this';
END
$$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON products DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.name LIKE '%{REFUSED}' OR NEW.name LIKE '%{KEPT}' AND NEW.deleted_at IS NOT NULL)
    EXECUTE FUNCTION refuse();
"""
"""Lets a transaction fail as late as it can: everything was done, and COMMIT is answered with an error."""


class Trouble(StrEnum):
    """What becomes of the publishes of the process that writes."""

    NONE = "cache works"
    REFUSED = "publish refused"
    REPLY_LOST = "reply lost"


@dataclass(slots=True)
class Shop:
    """The catalogue of one test."""

    at: Process
    """Where the test writes."""
    other: Process
    slots: Slots
    database: "psycopg.AsyncConnection[tuple[object, ...]]"
    trouble: Trouble
    reads: list[Read] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)

    def start(self) -> None:
        """From now on every publish of the writing process fails, if it is to fail."""
        if self.trouble is Trouble.REFUSED:
            self.at.store.calls.lose("publish", times=300)
        elif self.trouble is Trouble.REPLY_LOST:
            self.at.store.calls.lose_reply("publish", times=300)

    async def tried(self, *commands: Command | Sequence[Command]) -> tuple[list[Effect], list[Exception]]:
        """Make all these requests at once; return what the answered ones did, and the errors of the others.

        Several commands in one sequence share a transaction. An answered request settled if, and only if, the cache failed it.
        Whoever reads from now on must see it.
        """
        settled, called = self.at.stats.settles, time.perf_counter()
        writings = [
            self.at.products.write(command) if isinstance(command, Command) else self._together(command) for command in commands
        ]
        answers = await asyncio.gather(*writings, return_exceptions=True)
        returned = time.perf_counter()
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        answered = [answer for answer in answers if not isinstance(answer, BaseException)]
        assert len(errors) + len(answered) == len(answers)
        assert self.at.stats.settles - settled == (0 if self.trouble is Trouble.NONE else len(answered))
        effects = [effect for effects in answered for effect in effects]
        for row in (effect.row for effect in effects):
            self.writes.append(Write(row.id, called, returned, row.version, acknowledged=True, deleted=isinstance(row, Gone)))
        keys = {effect.row.id for effect in effects}
        # The next write finds what a reader filled in: the very entry that its lost publish leaves behind.
        await until(lambda: self.look(self.other, *keys))
        await self.look(self.at, *keys)
        return effects, errors

    async def wrote(self, *commands: Command | Sequence[Command]) -> list[Effect]:
        """Make requests at once that must all succeed."""
        effects, errors = await self.tried(*commands)
        if errors:
            raise errors[0]
        return effects

    async def refused(self, kind: type[Failure], command: Command | Sequence[Command]) -> Failure:
        """Make a request that must fail, and must leave every entry as it was."""
        before = await self._entries()
        effects, [error] = await self.tried(command)
        assert not effects
        assert await self._entries() == before
        assert isinstance(error, kind), repr(error)
        return error

    async def reserved(self, command: ReservationCommand, *keys: str) -> Reservation | Refused:
        """Carry out a command on a reservation, or be refused. Either changes these products, and later reads see that."""
        settled, called = self.at.stats.settles, time.perf_counter()
        answer: Reservation | Refused
        try:
            answer = await self.at.products.reserve(command)
        except Refused as refusal:
            answer = refusal
        returned = time.perf_counter()
        assert self.at.stats.settles - settled == (0 if self.trouble is Trouble.NONE else 1)
        for key in keys:
            self.writes.append(Write(key, called, returned, (await self._row(key)).version, acknowledged=True))
        await until(lambda: self.look(self.other, *keys))
        await self.look(self.at, *keys)
        return answer

    async def look(self, process: Process, *keys: str) -> bool:
        """Read from a process, on the record; return whether every answer was a hit."""
        called = time.perf_counter()
        reads = await process.cache.read_many(keys) if keys else []
        returned = time.perf_counter()
        self.reads += [Read(r.state.key, called, returned, r.state.version, status=r.status) for r in reads]
        return all(read.status is Status.HIT for read in reads)

    async def rows(self) -> dict[str, tuple[object, ...]]:
        """Every row, with its hidden mark of the transaction that wrote it."""
        found = await self.database.execute("SELECT id, xmin::text, name, price_cents, stock, version FROM products")
        return {str(row[0]): row for row in await found.fetchall()}

    async def has(self, key: str, price_cents: int, version: int, *, stock: int = 0) -> None:
        """Assert that row, slot and reads agree on a product."""
        row = await self._row(key)
        assert isinstance(row, Product)
        assert (row.price_cents, row.version, row.stock) == (price_cents, version, stock)
        await self._agree(key, version, product_payload(row))

    async def has_no(self, key: str, version: int = 0) -> None:
        """Assert that row, slot and reads agree that a product was deleted at a version, or (0) never was."""
        assert await self._row(key) == Gone(key, version)
        await self._agree(key, version, None)

    async def watch(self) -> None:
        """Read every product that was ever written, until cancelled.

        Only beside the writing process: that one takes leases on empty slots, and its fills fail like its publishes.
        """
        while True:
            await self.look(self.other, *{write.key for write in self.writes})
            await asyncio.sleep(0.005)

    def judge(self) -> None:
        """Assert that no reader saw the past."""
        verdict = check(self.reads, self.writes)
        assert not verdict.violations, "\n".join(str(violation) for violation in verdict.violations[:5])

    async def _together(self, commands: Sequence[Command]) -> Sequence[Effect]:
        """Run commands in one transaction, published or settled as any write."""

        async def transact() -> Committed:
            committed = await self.at.transactions.commit([WriteRequest(command) for command in commands])
            if denied := [decision.refusal for decision in committed.decisions if isinstance(decision, Denied)]:
                raise denied[0]
            return committed

        keys = {key for command in commands for key in command.keys}
        committed, acknowledgement = await self.at.cache.write(list(keys), transact)
        await self.at.cache.settle(acknowledgement)
        return [effect for decision in committed.decisions if isinstance(decision, Done) for effect in decision.effects]

    async def _row(self, key: str) -> Product | Gone:
        found = await self.database.execute(
            "SELECT name, price_cents, stock, reorder_point, version, created_at, updated_at, deleted_at, reserved"
            " FROM products WHERE id = %s",
            (key,),
        )
        return row_of(key, await found.fetchone() or (None,) * 9)

    async def _agree(self, key: str, version: int, payload: bytes | None) -> None:
        raw = await self.slots.get(key)
        held = None
        if raw is not None and not raw.startswith(slot.LEASE):
            held = slot.decode(raw, key, slot.hash_in(raw), slot.incarnation_in(raw))
        if version and self.trouble is Trouble.NONE:
            assert held is not None, "a write that was published fills its slot"
        if held is not None:
            assert (held.version, _payload(held)) == (version, payload)
        for process in (self.at, self.other):
            state = (await process.cache.read(key)).state
            assert (state.version, _payload(state)) == (version, payload)

    async def _entries(self) -> dict[str, bytes]:
        """What the slots of all products that were written hold, but for leases, which readers come and go with."""
        found = {key: await self.slots.get(key) for key in {write.key for write in self.writes}}
        return {key: raw for key, raw in found.items() if raw is not None and not raw.startswith(slot.LEASE)}


def product(key: str, price_cents: int = 100, *, ending: str = "good", stock: int | None = None) -> Draft:
    """A whole product to put; its name's ending may be one that PostgreSQL refuses."""
    return Draft(key, f"{key} {ending}", price_cents, stock)


async def stop(task: "asyncio.Task[None]") -> None:
    """End a task that goes on for ever; an error that ended it before is raised."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _payload(state: State) -> bytes | None:
    return state.payload if isinstance(state, Value) else None
