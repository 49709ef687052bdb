"""The batcher alone: batches, their order, their errors, and callers who leave."""

import asyncio
from collections.abc import Sequence

import pytest

from app.cache.batcher import Batcher
from app.cache.errors import Overloaded
from tests.harness.script import Gate


class Carrier:
    """Sends batches under the test's control; the result of a number is its double."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gates: list[Gate] = []
        self.error: Exception | None = None

    def hold(self) -> Gate:
        gate = Gate()
        self.gates.append(gate)
        return gate

    async def send(self, batch: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(batch))
        if self.gates:
            await self.gates.pop(0).enter()
        if self.error is not None:
            raise self.error
        return [ValueError(f"{item} is odd luck") if item == 13 else 2 * item for item in batch]


@pytest.fixture
def carrier() -> Carrier:
    return Carrier()


def batcher_of(carrier: Carrier, *, queue_limit: int = 100) -> Batcher[int, int]:
    return Batcher(carrier.send, max_weight=100, queue_limit=queue_limit)


async def under_way(carrier: Carrier, *, queue_limit: int = 100) -> tuple[Batcher[int, int], Gate, "asyncio.Future[int]"]:
    """Return a batcher whose first request, a 0, is under way and held at the gate."""
    batcher, gate = batcher_of(carrier, queue_limit=queue_limit), carrier.hold()
    first = batcher.submit(0)
    await gate.arrival()
    return batcher, gate, first


async def test_idle_batcher(carrier: Carrier) -> None:
    """A request on an idle batcher goes at once, alone."""
    batcher = batcher_of(carrier)
    assert await batcher.submit(1) == 2
    assert carrier.batches == [[1]]


@pytest.mark.guarantee("R7")
async def test_requests_meanwhile(carrier: Carrier) -> None:
    """Requests that come while a batch is under way form the next one, in order, and each gets its own result."""
    batcher, gate, first = await under_way(carrier)
    rest = [batcher.submit(number) for number in range(1, 8)]
    assert batcher.waiting == 7
    gate.open()
    assert await asyncio.gather(first, *rest) == [2 * number for number in range(8)]
    assert carrier.batches == [[0], list(range(1, 8))]


@pytest.mark.guarantee("G6")
async def test_max_weight(carrier: Carrier) -> None:
    """A batch ends before it grows too heavy; an item heavier than a whole batch is sent alone."""
    batcher: Batcher[int, int] = Batcher(carrier.send, weight=lambda item: item, max_weight=10, queue_limit=100)
    gate = carrier.hold()
    futures = [batcher.submit(1)]
    await gate.arrival()
    futures += [batcher.submit(weight) for weight in (4, 6, 5, 50, 5, 5)]
    gate.open()
    await asyncio.gather(*futures)
    assert carrier.batches == [[1], [4, 6], [5], [50], [5, 5]]


async def test_what_is_the_same_weighs_once(carrier: Carrier) -> None:
    """Items with the same group key count once, so they do not spread over batches."""
    batcher: Batcher[int, int] = Batcher(carrier.send, group_key=lambda item: item % 10, max_weight=2, queue_limit=100)
    gate = carrier.hold()
    futures = [batcher.submit(1)]
    await gate.arrival()
    futures += [batcher.submit(number) for number in (2, 12, 3, 22, 23, 4, 14)]
    gate.open()
    await asyncio.gather(*futures)
    assert carrier.batches == [[1], [2, 12, 3, 22, 23], [4, 14]]


@pytest.mark.parametrize(
    ("yields", "batches"), [(0, [[1, 2, 3], [0], [1, 2, 3], [0]]), (3, [[1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]])]
)
async def test_who_was_answered_comes_back_in_time(carrier: Carrier, yields: int, batches: list[list[int]]) -> None:
    """Clients that ask again at once share one batch; without the yields they would stay in two alternating batches."""

    async def travel(batch: Sequence[int]) -> Sequence[int | Exception]:
        answers = await carrier.send(batch)
        for _ in range(5):
            await asyncio.sleep(0)
        return answers

    batcher: Batcher[int, int] = Batcher(travel, max_weight=100, queue_limit=100, yields=yields)

    async def client(number: int) -> None:
        for _ in range(9):
            await batcher.submit(number)

    gate = carrier.hold()
    clients = [asyncio.create_task(client(0))]
    await gate.arrival()
    clients += [asyncio.create_task(client(number)) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(*clients)
    assert [sorted(batch) for batch in carrier.batches[1 : 1 + len(batches)]] == batches


async def test_error_of_the_batch(carrier: Carrier) -> None:
    """An error of a batch reaches all its requests, and the batcher goes on with the next batch."""
    batcher = batcher_of(carrier)
    carrier.error = RuntimeError("down")
    answers = await asyncio.gather(*(batcher.submit(number) for number in range(3)), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["down"] * 3
    carrier.error = None
    assert await batcher.submit(4) == 8


async def test_error_of_one(carrier: Carrier) -> None:
    """A result that is an exception reaches its own request only."""
    batcher = batcher_of(carrier)
    answers = await asyncio.gather(*(batcher.submit(number) for number in (12, 13, 14)), return_exceptions=True)
    assert [answers[0], answers[2]] == [24, 28]
    assert isinstance(answers[1], ValueError)


async def test_cancelled_while_waiting(carrier: Carrier) -> None:
    """A request that was cancelled before its batch left is not sent."""
    batcher, gate, first = await under_way(carrier)
    leaver, stayer = batcher.submit(1), batcher.submit(2)
    leaver.cancel()
    gate.open()
    assert await first == 0
    assert await stayer == 4
    assert carrier.batches == [[0], [2]]


async def test_all_cancelled_while_waiting(carrier: Carrier) -> None:
    """If all waiting requests were cancelled nothing is sent, and the batcher is idle afterwards."""
    batcher, gate, first = await under_way(carrier)
    for future in [batcher.submit(number) for number in range(1, 4)]:
        future.cancel()
    gate.open()
    await first
    await batcher.aclose()
    assert carrier.batches == [[0]]
    assert await batcher.submit(5) == 10


async def test_cancelled_under_way(carrier: Carrier) -> None:
    """A request that is cancelled while its batch is under way does not disturb the batch."""
    batcher, gate = batcher_of(carrier), carrier.hold()
    leaver, stayer = batcher.submit(1), batcher.submit(2)
    await gate.arrival()
    leaver.cancel()
    gate.open()
    assert await stayer == 4


async def test_callers_who_leave_are_told_of(carrier: Carrier) -> None:
    """Whoever owns the batcher learns which items were not sent and which results nobody takes, errors apart."""
    left: list[int] = []
    unclaimed: list[int] = []
    batcher: Batcher[int, int] = Batcher(
        carrier.send, max_weight=100, queue_limit=100, left=left.append, unclaimed=unclaimed.append
    )
    gate = carrier.hold()
    under_way = batcher.submit(1)
    await gate.arrival()
    waiting, unlucky, stayer = (batcher.submit(number) for number in (2, 13, 3))
    second = carrier.hold()
    under_way.cancel()
    waiting.cancel()
    gate.open()
    await second.arrival()
    unlucky.cancel()
    second.open()
    assert await stayer == 6
    assert (carrier.batches, left, unclaimed) == ([[1], [13, 3]], [2], [2])


async def test_caller_who_leaves_when_the_result_has_come(carrier: Carrier) -> None:
    """A result that came in the very moment in which its caller was cancelled is taken by nobody, either."""
    unclaimed: list[int] = []
    batcher: Batcher[int, int] = Batcher(carrier.send, max_weight=100, queue_limit=100, unclaimed=unclaimed.append)
    caller = asyncio.create_task(batcher.request(1))
    while not carrier.batches:
        await asyncio.sleep(0)
    caller.cancel()  # the sender has set the result, and the caller's task has not run since
    await asyncio.gather(caller, return_exceptions=True)
    assert caller.cancelled()
    assert unclaimed == [2]
    assert await batcher.request(2) == 4
    assert unclaimed == [2]


async def test_items_that_are_held_back(carrier: Carrier) -> None:
    """An item that may not go yet is passed over by those behind it, keeps its place, and goes when it may."""
    held = {1, 3}
    batcher: Batcher[int, int] = Batcher(carrier.send, max_weight=100, queue_limit=100, held=held.__contains__)
    first, second, third = (batcher.submit(number) for number in (1, 2, 3))
    assert await second == 4
    await batcher.aclose()
    assert batcher.waiting == 2
    held.remove(3)
    batcher.resume()
    assert await third == 6
    held.clear()
    batcher.resume()
    assert await first == 2
    assert carrier.batches == [[2], [3], [1]]


@pytest.mark.guarantee("G6")
async def test_queue_limit(carrier: Carrier) -> None:
    """G6: beyond the limit a request is refused at once; those that wait already are sent."""
    batcher, gate, first = await under_way(carrier, queue_limit=3)
    waiting = [batcher.submit(number) for number in (1, 2, 3)]
    with pytest.raises(Overloaded):
        batcher.submit(4)
    gate.open()
    assert await asyncio.gather(first, *waiting) == [0, 2, 4, 6]
    assert await batcher.submit(4) == 8


@pytest.mark.guarantee("R7")
async def test_request_in_the_very_step_in_which_a_batch_ends(carrier: Carrier) -> None:
    """A request made by a caller who was just answered is sent, no matter at which step of closing it arrives."""
    batcher = batcher_of(carrier)
    for steps in range(12):

        async def follow(steps: int = steps) -> int:
            await batcher.submit(1)
            for _ in range(steps):
                await asyncio.sleep(0)
            return await batcher.submit(2)

        async with asyncio.timeout(5):
            assert list(await asyncio.gather(follow(), follow())) == [4, 4]


async def test_close_finishes_what_was_accepted(carrier: Carrier) -> None:
    """Closing waits for the batch under way and for all waiting ones."""
    batcher, gate, first = await under_way(carrier)
    second = batcher.submit(1)
    closing = asyncio.create_task(batcher.aclose())
    gate.open()
    await closing
    assert (first.result(), second.result()) == (0, 2)
