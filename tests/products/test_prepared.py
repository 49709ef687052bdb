"""Statements are prepared: once for each text and connection, for good, and planned once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count as counter
from typing import Any

import pytest

from app.cache.history import History
from app.cache.ports import Announced, FenceLimits, Watermark
from app.cache.postgres.table_audit import TableAuditSources
from app.cache.postgres.table_source import TableSource
from app.feed.events import PRODUCT_LINE
from app.feed.windows import ALL_TYPES, START, Windows
from app.postgres.database import Database
from app.products.acceptance import Acceptance
from app.products.accepted import AcceptedStats, AcceptedWrite, Failed
from app.products.commands import Adjust, Command, Create, delete, set_stock
from app.products.decision import Denied, Done
from app.products.errors import ProductsMissing, ReservationMissing
from app.products.idempotency import Answer, IdempotencyKey, Origin, WriteRequest
from app.products.product import Draft, LedgerPosition, Line, Position, Reason
from app.products.reservation import Part, RequestedLine, ReservationPosition, Status
from app.products.reservation_commands import Commit, Extend, Release, Reserve, Tidy
from app.products.source import PRODUCTS, ProductSource
from app.products.transaction import Patience, Transaction
from app.products.transactions import ProductTransactions
from tests.harness.servers import execute
from tests.limits import open_database
from tests.products.plans import STATEMENTS

PREPARED = "SELECT name, statement, custom_plans FROM pg_prepared_statements"
DRIVERS_THRESHOLD = 5
"""A statement is prepared when it was run so often."""

_numbers = counter()

LIMITS = FenceLimits(2_000, 2_000, 50)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """One connection for each part, so that it is always the same."""
    database = open_database(database_url, connections=5)
    yield database
    await database.close()


def request(command: Command, *, kept: bool, named: bool) -> WriteRequest:
    """A request as it may come: with and without whatever may be left out."""
    name = f"n{next(_numbers)}"
    key = IdempotencyKey("", name, b"hash", lambda _: Answer(200, b"", name if named else None)) if kept else None
    return WriteRequest(command, Origin(name if named else None, name if named else None, key))


async def write(database: Database, size: int, amount: int) -> None:
    """Create, count, adjust and delete ``size`` products, each in one transaction; nothing is refused."""
    transactions = ProductTransactions(database)
    for kept, named in ((False, False), (False, True), (True, True)):
        ids = [f"p{next(_numbers)}" for _ in range(size)]
        rounds: Sequence[Sequence[Command]] = [
            [Create(Draft(key, "Mug", amount, amount)) for key in ids],
            [set_stock(key, amount + 7, reference="count") for key in ids],
            [Adjust([Line(key, -1)], Reason.SALE) for key in ids],
            [delete(key) for key in ids],
        ]
        for commands in rounds:
            done = await transactions.commit([request(command, kept=kept, named=named) for command in commands])
            assert {type(decision) for decision in done.decisions} == {Done}
    await reserve(transactions, size, amount)
    # As after a lost race, and with a row to be waited for.
    nothing = [request(set_stock(f"none{number}", 7), kept=False, named=False) for number in range(size)]
    work = Transaction(nothing, Patience(1_000, ["none0"]), History(), decode=None, again=True)
    await transactions._once(work)
    await transactions.forget(age_s=60, limit=1_000)


async def reserve(transactions: ProductTransactions, size: int, amount: int) -> None:
    """Hold, extend, commit, release and tidy in one transaction each; then need what a reservation holds, ended or not."""
    ids = [f"p{next(_numbers)}" for _ in range(size)]
    await transactions.commit([request(Create(Draft(key, "Mug", 1, amount)), kept=False, named=False) for key in ids])
    for kept, named in ((False, False), (True, True)):
        making = [Reserve([RequestedLine(key, 2), RequestedLine(key, 1)], 60, "cart" if named else None) for key in ids]
        made = await transactions.commit([request(command, kept=kept, named=named) for command in making])
        holds = [d.reservation.id for d in made.decisions if isinstance(d, Done) and d.reservation]
        assert len(holds) == size
        verbs: Sequence[Callable[[str], Command]] = (
            lambda key: Extend(key, 6_000),
            lambda key: Commit(key, [Part(0, 1)]),
            lambda key: Tidy([key]),
            Release,
        )
        for verb in verbs:
            done = await transactions.commit([request(verb(key), kept=kept, named=named) for key in holds])
            assert {type(decision) for decision in done.decisions} == {Done}
    for moment in (False, True):
        held = [request(Reserve([RequestedLine(key, amount - 2)], 60), kept=False, named=False) for key in ids]
        await transactions.commit(held)
        await transactions.commit(
            [request(Adjust([Line(key, 1 - amount)], Reason.SALE), kept=False, named=False) for key in ids]
        )
        need = Reserve([RequestedLine(ids[0], amount)], 60) if moment else delete(ids[0])
        [decision] = (await transactions.commit([request(need, kept=False, named=False)])).decisions
        assert isinstance(decision, Denied)
    ended = [f"p{next(_numbers)}" for _ in range(size)]
    steps: Sequence[Sequence[Command]] = (
        [Create(Draft(key, "Mug", 1, amount)) for key in ended],
        [Reserve([RequestedLine(key, amount)], -1) for key in ended],
        [Adjust([Line(key, -1)], Reason.SALE) for key in ended],
    )
    for commands in steps:
        done = await transactions.commit([request(command, kept=False, named=False) for command in commands])
        assert {type(decision) for decision in done.decisions} == {Done}


async def read(database: Database, size: int, amount: int) -> None:
    """Ask for everything that there is to ask."""
    source = ProductSource(database)
    await source.load([f"p{number}" for number in range(size)])
    history = TableSource(database.loads, PRODUCTS, "n")
    await history.tell_epoch()
    await history.adopt(2_000)
    for position in (None, Position("p1", "mug")):
        for prefix in ("", "m"):
            await source.page(limit=amount, after=position, prefix=prefix)
        await source.page(limit=amount, after=position, prefix="", below_reorder_point=True)
        await source.page(limit=amount, after=position, prefix="", uncovered=True)
    for place in (None, LedgerPosition("p1", amount, 0, datetime.now(UTC))):
        await source.movements("p1", limit=amount, after=place)
        await source.movements_by_reference("count", limit=amount, after=place)
    reservations = source.reservations
    with suppress(ReservationMissing):
        await reservations.get("none")
    for end in (None, ReservationPosition(datetime.now(UTC), "r")):
        for status in (None, Status.HELD):
            await reservations.by_reference("none", status=status, limit=amount, after=end)
            await reservations.by_product("none", status=status, limit=amount, after=end)
    await reservations.ended(limit=amount, lines=amount)
    await reservations.held()
    await reservations.forget(age_s=60, limit=amount)
    await source.has_ledger("p1")
    await source.latest_movements(limit=amount)


async def audit(database: Database, size: int) -> None:
    """Run an audit's statements."""
    async with TableAuditSources(database, PRODUCTS, "n").open() as source:
        await source.tell_epoch()
        announced = await source.announce("server", LIMITS)
        assert isinstance(announced, Announced)
        async with source.snapshot(Watermark(announced.epoch, size), LIMITS, 1_000) as snapshot:
            async for _ in snapshot.pages:
                pass
        await source.complete(announced.cycle)


async def accept(database: Database, size: int, amount: int) -> None:
    """Accept writes; some are applied, with a direct write or without, and some fail."""
    stats = AcceptedStats()

    async def decode(write: AcceptedWrite) -> WriteRequest:
        if write.operation == "unknown":
            raise ValueError(write.operation)
        key = IdempotencyKey(write.caller, write.key, write.request_hash, lambda _: Answer(200, b"", None))
        return WriteRequest(Create(Draft(write.product_ids[0], "Mug", amount, amount)), Origin(None, None, key))

    acceptance = Acceptance(database, lambda _epoch, _asked_at: None, stats, queue_limit=1_000)
    transactions = ProductTransactions(database, decode=decode)

    async def accepted(operation: str, request_id: str | None) -> list[str]:
        names = [f"a{next(_numbers)}" for _ in range(size)]
        writes = [AcceptedWrite("", name, b"hash", [name], operation, "", "", b"{}", request_id) for name in names]
        await asyncio.gather(*(acceptance.accept(write) for write in writes))
        return names

    names = await accepted("create", None)
    direct = await transactions.commit([request(set_stock(name, amount + 7), kept=True, named=True) for name in names])
    assert {type(decision) for decision in (*direct.accepted_decisions, *direct.decisions)} == {Done}
    making = await transactions.commit([request(Reserve([RequestedLine(names[0], 1)], 60), kept=False, named=False)])
    [hold] = [decision.reservation for decision in making.decisions if isinstance(decision, Done)]
    assert hold is not None
    await transactions.commit([request(Release(hold.id), kept=False, named=False)])
    await accepted("create", "request")
    assert len((await transactions.apply(decode)).accepted_decisions) == size
    names = await accepted("unknown", None)
    await acceptance.measure()
    assert stats.rows == size
    assert (await transactions.apply(decode)).failures == size
    assert isinstance((await acceptance.find("", names[0])).state, Failed)
    assert not await acceptance.mark_failed(amount, "nothing waits")
    await acceptance.aclose()


async def follow(database: Database, amount: int) -> None:
    """Run the feed's statements. The audit before it has made a mark."""
    windows = Windows(database, LIMITS.margin_ms, lambda _epoch, _asked_at: None)
    number = (await windows.newest()).number
    assert number is not None
    since = max(1, number - 1)
    assert await windows.read(since, number, limit=amount) or number == 1
    await windows.step(since, number, limit=amount, types=ALL_TYPES)
    keys = await windows.keys(since, number, limit=amount, types=ALL_TYPES, after=START)
    assert len(await windows.events(since, number, [*keys, ("nothing", amount, PRODUCT_LINE)])) == len(keys)
    await windows.mark()
    await windows.forget(age_s=3_600, limit=amount)


async def prepared(database: Database) -> list[tuple[Any, ...]]:
    """What each part's connection has prepared: name, text, how often it was planned for its values, and the part."""
    shares = (database.audit, database.loads, database.lists, database.writes)
    return [(*row, number) for number, share in enumerate(shares) for row in await share.rows(PREPARED)]


async def everything(database: Database, size: int, amount: int) -> None:
    await write(database, size, amount)
    await accept(database, size, amount)
    await read(database, size, amount)
    await audit(database, size)
    await follow(database, amount)


async def test_one_prepared_statement_for_each_text(database: Database) -> None:
    """Numbers small and large, lists long and without any value: nothing is prepared twice, nothing is lost."""
    for _ in range(DRIVERS_THRESHOLD + 1):
        await everything(database, 1, 5)
        await prepared(database)
    before = await prepared(database)
    for size, amount in ((1, 5), (3, 40_000), (40, 5_000_000_000), (2, 5)):
        await everything(database, size, amount)
    assert await prepared(database) == before
    texts = Counter((text, share) for _, text, _, share in before)
    assert {text for text, number in texts.items() if number > 1} == set()
    assert {text for _, text, custom_plans, _ in before if custom_plans} == set(), "planned each time"
    begins = {text.partition("$")[0] for text, _ in texts}
    assert {name for name, text in STATEMENTS.items() if text.partition("%(")[0] not in begins} == set(), "never prepared"


async def test_refusals(database: Database) -> None:
    """A transaction that changed nothing ends without a word that makes the driver forget what it has prepared."""
    for _ in range(DRIVERS_THRESHOLD + 1):
        await write(database, 1, 5)
        await prepared(database)
    before = await prepared(database)
    transactions = ProductTransactions(database)
    for kept in (False, True):
        refused = await transactions.commit([request(set_stock("nothing", 5), kept=kept, named=False)])
        [decision] = refused.decisions
        assert isinstance(decision, Denied)
        assert isinstance(decision.refusal, ProductsMissing)
    assert await prepared(database) == before


async def test_a_migration_under_prepared_statements(database: Database, database_url: str) -> None:
    """A column gets another type: what was prepared is not refused, it goes to a connection that has prepared nothing yet."""
    for _ in range(DRIVERS_THRESHOLD + 1):
        await database.loads.rows("SELECT reorder_point FROM products")
    # By somebody else: after its own ALTER the driver forgets what it has prepared.
    await execute(database_url, "ALTER TABLE products ALTER COLUMN reorder_point TYPE numeric")
    assert await database.loads.rows("SELECT reorder_point FROM products") == []
