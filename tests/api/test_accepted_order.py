"""Accepted writes on real servers: the order of decisions, rows that cannot be decided, and what "done" shows."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import cast

import pytest
from typing_extensions import override

from app.api.context import Larder
from app.cache.write_through import WriteThrough
from app.postgres.database import Session, Statement
from app.products import accepted_queries
from app.products.acceptance import Acceptance
from app.products.accepted import Found
from app.products.decision import Decision
from app.products.transaction import Committed, Transaction
from app.products.transactions import ProductTransactions
from tests.api.accepting import (
    QUIET,
    Mutate,
    Serve,
    adjust,
    by_hand,
    create,
    ended,
    larder_behind,
    nothing_applied,
    order,
    unchanged,
)
from tests.api.real import proven


async def overtaking(serve: Serve, url: str, mutate: Mutate = unchanged) -> list[str]:
    """Accept one write, then send a direct one of the same product; return the order of the ledger."""
    async with serve() as client:
        mutate(larder_behind(client))
        await create(client, "a")
        async with nothing_applied(url):
            await adjust(client, "first", 1, "a")
            assert (await adjust(client, "second", 1, "a", later=False)).status_code == 200
        await ended(client, "first")
        return await order(client, "a")


@pytest.mark.guarantee("G2a")
async def test_direct_write_applies_what_waits_for_its_product(serve: Serve, database_url: str) -> None:
    """It does not overtake its own sender."""
    assert await overtaking(serve, database_url) == ["first", "second"]


async def test_mutant_direct_write_overtakes(serve: Serve, database_url: str) -> None:
    """The test above sees direct writes that do not look for waiting rows."""

    def mutate(larder: Larder) -> None:
        larder.products._transactions._decode = None

    assert await overtaking(serve, database_url, mutate) == ["second", "first"]


async def test_direct_write_brings_related_rows_along(serve: Serve, database_url: str) -> None:
    """A row of two products is not applied before an earlier row of the other product. Unrelated rows go on waiting."""
    async with serve() as client:
        await create(client, "a", "b", "c")
        async with nothing_applied(database_url):
            await adjust(client, "1", 1, "b")
            await adjust(client, "2", 1, "a", "b")
            await adjust(client, "3", 1, "c")
            assert (await adjust(client, "4", 1, "a", later=False)).status_code == 200
            assert (await order(client, "a"), await order(client, "b")) == (["2", "4"], ["1", "2"])
            assert (await client.get("/writes/3")).json()["state"] == "queued"


async def test_direct_write_behind_many_rows(serve: Serve, database_url: str) -> None:
    """More rows wait than one transaction applies: it applies them in several, and comes last."""
    async with serve() as client:
        await create(client, "a")
        async with nothing_applied(database_url):
            await asyncio.gather(*[adjust(client, f"k{number}", 1, "a") for number in range(420)])
            answer = await adjust(client, "last", 1, "a", later=False)
            assert answer.status_code == 200, answer.text
            assert answer.json()["lines"][0]["stock"] == 431


async def test_same_key_sent_directly(serve: Serve, database_url: str) -> None:
    """A repetition that no longer prefers a 202 gets the answer, and the request is done once."""
    async with serve() as client:
        await create(client, "a")
        async with nothing_applied(database_url):
            await adjust(client, "k", 1, "a")
            answer = await adjust(client, "k", 1, "a", later=False)
            assert (answer.status_code, answer.json()["lines"][0]["stock"]) == (200, 11)
            assert (await client.get("/writes/k")).json()["state"] == "done"
        assert await order(client, "a") == ["k"]


async def test_held_product_holds_up_its_rows_only(serve: Serve, database_url: str) -> None:
    """While somebody holds a product's row, its writes wait in their order, and others are applied."""
    async with serve() as client, by_hand(database_url) as hand:
        await create(client, "a", "b", "c")
        async with hand.transaction():
            await hand.execute("SELECT FROM products WHERE id = 'a' FOR UPDATE")
            await adjust(client, "1", 1, "a", "b")
            await adjust(client, "2", 1, "b")
            await adjust(client, "3", 1, "c")
            await ended(client, "3")
            assert (await client.get("/writes/2")).json()["state"] == "queued"
        await ended(client, "2")
        assert await order(client, "b") == ["1", "2"]


async def test_row_that_cannot_be_applied(serve: Serve, database_url: str) -> None:
    """It is tried alone, marked as failed with the reason, and counted. The rows beside and behind it are applied.

    That a product is held meanwhile, whose row is the lowest, keeps nobody from it.
    """
    async with serve() as client, by_hand(database_url) as hand:
        await create(client, "a", "b", "c", "d")
        await hand.execute("ALTER TABLE stock_movements ADD CHECK (reference <> '2')")
        async with hand.transaction():
            await hand.execute("SELECT FROM products WHERE id = 'd' FOR UPDATE")
            async with nothing_applied(database_url) as other_hand:
                for key, product_id in (("0", "d"), ("1", "a"), ("2", "b"), ("3", "b"), ("4", "c")):
                    await adjust(client, key, 1, product_id)
                await other_hand.execute("UPDATE accepted_writes SET operation = 'none' WHERE key = '4'")
                behind = await adjust(client, "direct", 1, "b", later=False)
                assert (behind.status_code, behind.json()["type"]) == (503, "/problems/overloaded")
            states = [(await ended(client, key))["state"] for key in "1234"]
            assert states == ["done", "failed", "done", "failed"]
            assert (await client.get("/writes/0")).json()["state"] == "queued"
        assert (await ended(client, "0"))["state"] == "done"
        assert "KeyError" in (await ended(client, "4"))["reason"]
        assert (await client.get("/products/b")).json()["stock"] == 11
        async with asyncio.timeout(10):
            while "larder_accepted_failed_rows 2.0" not in (text := (await client.get("/metrics")).text):
                await asyncio.sleep(0.1)
        assert "larder_accepted_writes_failed_total 2.0" in text
        await hand.execute("UPDATE accepted_writes SET failed_at = NULL, failure = NULL, operation = 'adjustStocks'")
        await hand.execute("DELETE FROM accepted_writes WHERE key = '2'")
        assert (await ended(client, "4"))["state"] == "done"


async def test_old_backlog_is_not_extended(serve: Serve, database_url: str) -> None:
    """When the first row has waited for a minute, nothing more is accepted; a direct write still is carried out."""
    async with serve() as client:
        await create(client, "a", "b")
        async with nothing_applied(database_url) as hand:
            await adjust(client, "k", 1, "a")
            await hand.execute("UPDATE accepted_writes SET accepted_at = now() - interval '2 minutes'")
            async with asyncio.timeout(10):
                number = 0
                while (answer := await adjust(client, f"n{number}", 1, "b")).status_code == 202:
                    number += 1
                    await asyncio.sleep(0.1)
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/overloaded")
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
            assert (await adjust(client, "direct", 1, "b", later=False)).status_code == 200


async def late(serve: Serve, url: str, mutate: Mutate = unchanged) -> str:
    """Commit a row after a row of a higher number was applied; return its state in the end."""
    async with serve() as client, by_hand(url) as hand:
        mutate(larder_behind(client))
        await create(client, "a")
        async with hand.transaction():
            await hand.execute(
                "INSERT INTO accepted_writes (caller, key, request_hash, product_ids, operation, target, conditions, body)"
                " VALUES ('', 'low', '', '{a}', 'putStock', '/products/a/stock', '[]', '{\"stock\": 5}')"
            )
            await adjust(client, "high", 1, "a")
            await ended(client, "high")
        async with asyncio.timeout(10):
            while (answer := await client.get("/writes/low")).status_code == 200 and answer.json()["state"] == "queued":
                await asyncio.sleep(0.02)
        return str(answer.json().get("state"))


@pytest.mark.guarantee("G2a")
async def test_lower_number_that_is_committed_later(serve: Serve, database_url: str) -> None:
    """It is decided all the same: nothing is concluded from the numbers."""
    assert await late(serve, database_url) == "done"


class UpTo(Transaction):
    """Believes that everything up to the highest number that was applied has been applied."""

    highest = 0

    @override
    async def run(self, session: Session) -> Committed:
        committed = await super().run(session)
        UpTo.highest = max([UpTo.highest, *self.accepted.seqs])
        return committed

    @override
    async def _lock(self, session: Session) -> None:
        await super()._lock(session)
        believed = [place for place, seq in enumerate(self.accepted.seqs) if seq <= UpTo.highest]
        self.believed = [self.accepted.seqs.pop(place) for place in reversed(believed)]
        for place in reversed(believed):
            self.accepted.requests.pop(place)
            self.accepted.recorded.pop(place)

    @override
    def _remove_accepted(self, decisions: Sequence[Decision]) -> list[Statement]:
        applied: Statement = (accepted_queries.APPLIED, {"seqs": self.believed})
        return [*super()._remove_accepted(decisions), applied]


class BelievesNumbers(ProductTransactions):
    """Applies by such transactions."""

    @override
    async def _once(self, work: Transaction) -> Committed:
        work.__class__ = UpTo
        return await super()._once(work)


async def test_mutant_applied_up_to_a_number(serve: Serve, database_url: str) -> None:
    """The test above sees an applier that takes everything below its newest number for applied."""

    def mutate(larder: Larder) -> None:
        assert larder.accepted is not None
        UpTo.highest = 0
        larder.accepted._transactions.__class__ = BelievesNumbers

    assert await late(serve, database_url, mutate) == "None"


class DiesBeforePublish:
    """The cache of a process that is killed between each COMMIT of the applier and its publish."""

    def __init__(self) -> None:
        self.begun = 0

    async def write(self, _keys: object, transact: Callable[[], Awaitable[Committed]]) -> tuple[Committed, None]:
        self.begun += 1
        return await transact(), None


async def after_done(serve: Serve, url: str, mutate: Mutate = unchanged) -> tuple[int, int]:
    """Cache a product, apply a write without a publish, read the status; return the stock before and after that."""
    async with serve(**QUIET) as client, by_hand(url) as hand:
        larder = larder_behind(client)
        mutate(larder)
        await create(client, "a")
        await proven(client)
        assert (await client.get("/products/a")).headers["Cache-Status"] == "larder; hit"
        assert larder.accepted is not None
        cache, dying = larder.accepted._cache, DiesBeforePublish()
        larder.accepted._cache = cast("WriteThrough", dying)
        async with asyncio.timeout(20):
            while dying.begun < 1:  # the transaction before it may still publish
                await asyncio.sleep(0.02)
            await adjust(client, "k", -3, "a")
            while await (await hand.execute("SELECT 1 FROM accepted_writes")).fetchone():
                await asyncio.sleep(0.02)
        larder.accepted._cache = cache
        before = (await client.get("/products/a")).json()["stock"]
        assert (await client.get("/writes/k")).json()["state"] == "done"
        return before, (await client.get("/products/a")).json()["stock"]


@pytest.mark.guarantee("G2a", "R10")
async def test_done_comes_after_a_read_that_shows_it(serve: Serve, database_url: str) -> None:
    """The applier died before its publish, and readers get the old state until the status publishes."""
    assert await after_done(serve, database_url) == (10, 7)


async def test_mutant_status_without_r10(serve: Serve, database_url: str) -> None:
    """The test above sees a status that publishes nothing."""

    def mutate(larder: Larder) -> None:
        assert larder.accepted is not None
        larder.accepted._acceptance.__class__ = Silent

    assert await after_done(serve, database_url, mutate) == (10, 10)


class Silent(Acceptance):
    """Tells what became of a write without the rows to publish."""

    @override
    async def find(self, caller: str, key: str) -> Found:
        return replace(await super().find(caller, key), states=())
