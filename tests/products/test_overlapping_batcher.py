"""The overlapping batcher alone: when the next batch is sent, and what becomes of errors and of callers who leave."""

import asyncio
from collections.abc import Coroutine, Sequence

import pytest

from app.products.overlapping_batcher import Overlap, OverlappingBatcher
from tests.harness.script import PATIENCE_S, Gate


class Carrier:
    """Sends batches under the test's control: each waits at a gate before it is free, and at another before it is answered."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.sent: list[Gate] = []
        self.answered: list[Gate] = []
        self.share = 2
        self.error: Exception | None = None
        self.batcher: OverlappingBatcher[int, int] = OverlappingBatcher(
            self.send, lambda: self.share, weight=lambda _: 1, max_weight=100, queue_limit=100, yields=0
        )

    async def send(self, batch: Sequence[int], overlap: Overlap) -> Sequence[int | Exception]:
        number = len(self.batches)
        self.batches.append(list(batch))
        self.sent.append(Gate())
        self.answered.append(Gate())
        await self.sent[number].enter()
        if self.error is not None:
            raise self.error
        overlap.free()
        await self.answered[number].enter()
        await overlap.turn()
        return [2 * item for item in batch]

    async def until(self, batches: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.batches) < batches:
                await asyncio.sleep(0)

    async def stays(self, batches: int) -> None:
        """Fail if another batch is sent, now that nothing is left to be done but what the gates hold."""
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(self.batches) == batches


@pytest.fixture
def carrier() -> Carrier:
    return Carrier()


async def test_the_next_batch_is_sent_before_the_answers(carrier: Carrier) -> None:
    """As soon as the one before lets it, and not before."""
    futures = [carrier.batcher.submit(number) for number in range(4)]
    await carrier.until(1)
    await carrier.stays(1)
    carrier.sent[0].open()
    await carrier.until(2)
    assert carrier.batches == [[0, 1], [2, 3]]
    assert not any(future.done() for future in futures)
    carrier.answered[0].open()
    assert await asyncio.gather(*futures[:2]) == [0, 2]
    carrier.sent[1].open()
    carrier.answered[1].open()
    assert await asyncio.gather(*futures[2:]) == [4, 6]


async def test_an_item_waits_or_is_sent(carrier: Carrier) -> None:
    """``send`` is called in the step in which a batch is taken. It can mark the items before anything else happens."""
    sent: list[int] = []

    def send(batch: Sequence[int], overlap: Overlap) -> Coroutine[None, None, Sequence[int | Exception]]:
        sent.extend(batch)
        return carrier.send(batch, overlap)

    batcher: OverlappingBatcher[int, int] = OverlappingBatcher(
        send, lambda: 2, weight=lambda _: 1, max_weight=100, queue_limit=100, yields=0
    )
    futures = [batcher.submit(number) for number in range(4)]
    async with asyncio.timeout(PATIENCE_S):
        while len(carrier.answered) < 2:
            assert len(sent) + batcher.waiting == 4
            await asyncio.sleep(0)
            for gate in (*carrier.sent, *carrier.answered):
                gate.open()
    assert await asyncio.gather(*futures) == [0, 2, 4, 6]


async def test_answers_come_in_the_order_of_the_batches(carrier: Carrier) -> None:
    """The second batch is not answered before the first, even if it has its results earlier."""
    futures = [carrier.batcher.submit(number) for number in range(4)]
    await carrier.until(1)
    carrier.sent[0].open()
    await carrier.until(2)
    carrier.sent[1].open()
    carrier.answered[1].open()
    await carrier.stays(2)
    assert not any(future.done() for future in futures)
    carrier.answered[0].open()
    assert await asyncio.gather(*futures) == [0, 2, 4, 6]


async def test_at_most_two_batches_are_under_way(carrier: Carrier) -> None:
    """However slow the answers are, the third batch waits for those to the first."""
    futures = [carrier.batcher.submit(number) for number in range(6)]
    await carrier.until(1)
    carrier.sent[0].open()
    await carrier.until(2)
    carrier.sent[1].open()
    await carrier.stays(2)
    carrier.answered[0].open()
    await carrier.until(3)
    for gate in (*carrier.sent, *carrier.answered):
        gate.open()
    assert await asyncio.gather(*futures) == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(("share", "waiting"), [(0, 3), (4, 2)], ids=["overlapping is off", "too few wait"])
async def test_the_next_batch_waits_for_the_answers(carrier: Carrier, share: int, waiting: int) -> None:
    """It is sent after them, so that the next requests of those callers share it."""
    carrier.share = share
    first = carrier.batcher.submit(0)
    await carrier.until(1)
    later = [carrier.batcher.submit(number) for number in range(waiting)]
    carrier.sent[0].open()
    await carrier.stays(1)
    carrier.answered[0].open()
    await carrier.until(2)
    assert first.done()
    for gate in (*carrier.sent, *carrier.answered):
        gate.open()
    await asyncio.gather(*later)
    assert carrier.batches[1] == list(range(waiting))


async def test_a_batch_that_fails_frees_the_next_one(carrier: Carrier) -> None:
    """Its callers get the error, and the next batch is sent."""
    carrier.error = ValueError("failed")
    futures = [carrier.batcher.submit(number) for number in range(4)]
    await carrier.until(1)
    carrier.sent[0].open()
    await carrier.until(2)
    carrier.error = None
    carrier.sent[1].open()
    carrier.answered[1].open()
    found = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(one) for one in found] == [ValueError, ValueError, int, int]


async def test_closing_waits_for_the_answers(carrier: Carrier) -> None:
    """Also when those who waited for the next batch have left."""
    futures = [carrier.batcher.submit(number) for number in range(4)]
    await carrier.until(1)
    carrier.sent[0].open()
    for future in futures[2:]:
        future.cancel()
    closing = asyncio.create_task(carrier.batcher.aclose())
    await carrier.stays(1)
    assert not closing.done()
    carrier.answered[0].open()
    await closing
    assert [future.result() for future in futures[:2]] == [0, 2]
