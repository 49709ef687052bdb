"""Chunks through the sender: how far it reads ahead, and which failure it reports."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fastapi import Response

from app.importer.chunks import Chunk
from app.importer.errors import ServiceStopped
from app.importer.flow import WINDOW_PER_CONNECTION, ImportFlow
from app.importer.report import PlainProgress, RefusedList, Tally
from app.importer.retry import RetryPolicy, Stopping
from app.importer.rows import Refusal, Row
from app.importer.sender import BatchSender
from tests.importer.standin import Item, StandIn, problem, serving


class Chunks:
    """A hundred chunks of one row, the first `sent` to be sent, the others refused; counts how many were asked for."""

    def __init__(self, sent: int = 100) -> None:
        self._sent = sent
        self.read = 0

    def __iter__(self) -> Iterator[Chunk]:
        for number in range(100):
            self.read += 1
            body = json.dumps({"id": f"p{number}", "name": "x", "price_cents": 1}).encode()
            if number >= self._sent:
                yield Chunk(refusals=[Refusal(number, "", "bad")])
                continue
            yield Chunk(rows=[Row(number, f"p{number}", body)])


@contextlib.asynccontextmanager
async def flow_to(url: str, folder: Path, *, concurrency: int, stopping: Stopping, tally: Tally) -> AsyncIterator[ImportFlow]:
    source = folder / "in.csv"
    source.touch()
    sender = BatchSender(
        url,
        connections=concurrency,
        timeout_s=20,
        retry=RetryPolicy(first_wait_ms=60_000, longest_wait_ms=60_000),
        stopping=stopping,
        notify=lambda _: None,
    )
    with RefusedList(folder / "refused.csv", source) as refused:
        progress = PlainProgress(lambda _: None, 1)
        yield ImportFlow(sender, concurrency=concurrency, stopping=stopping, refused=refused, tally=tally, progress=progress)
    await sender.close()


async def test_reading_ahead_of_a_slow_batch_is_bounded(tmp_path: Path) -> None:
    """While the oldest batch is unanswered the others pass it, but only a window far."""
    window = 2 * WINDOW_PER_CONNECTION
    chunks, gate, read_meanwhile = Chunks(), asyncio.Event(), 0

    async def hold_first(number: int, items: list[Item]) -> None:  # noqa: ARG001  # a Fault
        nonlocal read_meanwhile
        if number == 1:
            await gate.wait()
        if number == window:
            read_meanwhile = chunks.read
            gate.set()

    tally = Tally()
    async with (
        serving(StandIn(before=hold_first)) as url,
        asyncio.timeout(30),
        flow_to(url, tmp_path, concurrency=2, stopping=Stopping(), tally=tally) as flow,
    ):
        await flow.run(chunks)
    assert read_meanwhile == window
    assert tally.total == 100


async def test_stop_ends_the_reading(tmp_path: Path) -> None:
    """Nothing more of a long file is read after Ctrl-C; what was under way is counted."""
    chunks, stopping, tally = Chunks(sent=3), Stopping(), Tally()

    async def stop_at_three(number: int, items: list[Item]) -> None:  # noqa: ARG001  # a Fault
        if number == 3:
            stopping.request()

    standin = StandIn(before=stop_at_three)
    async with serving(standin) as url, flow_to(url, tmp_path, concurrency=1, stopping=stopping, tally=tally) as flow:
        await flow.run(chunks)
    assert len(standin.requests) == 3
    assert tally.total == chunks.read - 1, "the chunk that was being read is left for the next run"
    assert chunks.read < 10


async def test_cause_is_reported_rather_than_its_consequence(tmp_path: Path) -> None:
    """An earlier batch that is waiting for its next try is given up when a later one finds the import hopeless."""
    second_came = asyncio.Event()

    async def first_away_then_forbidden(number: int, items: list[Item]) -> Response:  # noqa: ARG001  # a Fault
        if items[0]["id"] == "p0":
            await second_came.wait()
            return problem(503, "away")
        second_came.set()
        return problem(403, "forbidden")

    stopping = Stopping()
    async with (
        serving(StandIn(before=first_away_then_forbidden)) as url,
        asyncio.timeout(30),
        flow_to(url, tmp_path, concurrency=2, stopping=stopping, tally=Tally()) as flow,
    ):
        with pytest.raises(ServiceStopped, match="forbidden"):
            await flow.run(Chunks())
