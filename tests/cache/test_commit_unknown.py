"""The answer to COMMIT is lost: a proxy cuts the connection there (G2)."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.products.commands import Change, Create, Put, set_stock
from app.products.errors import OutcomeUnknown
from app.products.idempotency import NO_ORIGIN, Answer, IdempotencyKey, Origin
from tests.cache.conftest import Slots
from tests.cache.rig import Process, draft, open_process
from tests.cache.taps import Cut, Tap, postgres_proxy

KEY = "mug"
WITH_KEY = Origin(idempotency_key=IdempotencyKey("till", "1", b"hash", lambda _: Answer(200, b"done")))


@pytest.fixture
async def tap(database_url: str) -> AsyncIterator[tuple[Tap, str]]:
    """A proxy to PostgreSQL, and its URL."""
    tap = Tap()
    async with postgres_proxy(database_url, tap) as url:
        yield tap, url


@pytest.fixture
async def cutting(redis_url: str, tap: tuple[Tap, str], namespace: str) -> AsyncIterator[Process]:
    """A process whose connection to PostgreSQL leads through the proxy."""
    async with open_process(redis_url, tap[1], namespace) as process:
        await process.source.standing()  # connects: a new connection has a COMMIT of its own, which is not the one to cut
        yield process


@pytest.mark.guarantee("G2")
@pytest.mark.parametrize("round_trips", [2, 3])
@pytest.mark.parametrize("cut", ["before it is sent", "when its answer comes"])
async def test_cut_at_commit_with_a_filled_slot(
    process: Process, cutting: Process, tap: tuple[Tap, str], slots: Slots, *, cut: Cut, round_trips: int
) -> None:
    """The caller is told that the outcome is unknown, the slot stays, and the next audit makes the outcome visible.

    It is the same for a COMMIT with the changes before it and for one that follows them.
    """
    await process.write(Put(draft(KEY)))
    before = await slots.get(KEY)
    await cutting.products.write(Put(draft(KEY)))  # opens the connection
    cutting.store.calls.log.clear()
    tap[0].clear()
    tap[0].cut = cut
    with pytest.raises(OutcomeUnknown):
        await cutting.products.write(set_stock(KEY, 7), NO_ORIGIN if round_trips == 2 else WITH_KEY)
    assert tap[0].round_trips == round_trips
    assert before
    assert await slots.get(KEY) == before
    assert "publish" not in cutting.store.calls.count()
    happened = cut == "when its answer comes"
    await process.trust()
    assert await process.version(KEY) == (2 if happened else 1)
    # The connection that was cut takes nothing with it.
    assert (await cutting.products.write(set_stock(KEY, 8)))[0].row.version == (3 if happened else 2)


@pytest.mark.guarantee("G2")
@pytest.mark.parametrize("cut", ["before it is sent", "when its answer comes"])
async def test_cut_at_commit_with_an_empty_slot(
    process: Process, cutting: Process, tap: tuple[Tap, str], slots: Slots, cut: Cut
) -> None:
    """The lease that was taken for the write is given back, and the next read finds the outcome."""
    await process.write(Put(draft(KEY)))
    await process.cache.drop(KEY)
    tap[0].cut = cut
    with pytest.raises(OutcomeUnknown):
        await cutting.products.write(set_stock(KEY, 7))
    assert await slots.get(KEY) is None
    assert cutting.store.calls.count()["lease"] == 1
    assert "publish" not in cutting.store.calls.count()
    assert await process.version(KEY) == (2 if cut == "when its answer comes" else 1)


@pytest.mark.guarantee("G2")
async def test_whole_batch_hears_that_its_outcome_is_unknown(process: Process, cutting: Process, tap: tuple[Tap, str]) -> None:
    """Requests that share a transaction share its outcome, and none is tried again without its caller."""
    ids = [f"p{number}" for number in range(5)]
    await cutting.products.write(Create(draft("first")))
    tap[0].clear()
    tap[0].cut = "when its answer comes"
    answers = await asyncio.gather(*(cutting.products.write(Create(draft(name))) for name in ids), return_exceptions=True)
    cut = [answer for answer in answers if isinstance(answer, OutcomeUnknown)]
    assert len(cut) >= 1
    assert [await process.version(name) for name in ids] == [1] * 5
    # A lane that was not cut answered as ever; nobody's transaction ran twice.
    assert tap[0].seen.count("COMMIT") <= 4
    assert {answer[0].change for answer in answers if not isinstance(answer, BaseException)} <= {Change.CREATED}
