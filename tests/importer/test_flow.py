"""Several batches at once: how far it reads ahead, and which failure it reports."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from starlette.responses import JSONResponse, Response

from app.importer.batches import Batch
from app.importer.errors import ImportStopped
from app.importer.flow import WINDOW_PER_CONNECTION, ImportFlow
from app.importer.posting import Poster
from app.importer.report import Progress, RejectedFile
from app.importer.retry import RetryPolicy
from app.importer.rows import Row
from app.importer.stopping import StopFlag
from tests.importer.faulty import Fault, Faulty, problem, serving

CREATED = JSONResponse({"results": [{"index": 0, "outcome": "created"}]})


class Batches:
    """A hundred batches of one row; counts how many were read."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[Batch]:
        for number in range(100):
            self.read += 1
            yield Batch(rows=[Row(number, f"p{number}", json.dumps({"id": f"p{number}"}).encode())])


@contextlib.asynccontextmanager
async def flow_against(fault: Fault, folder: Path, *, connections: int, stop: StopFlag) -> AsyncIterator[ImportFlow]:
    """A flow to a service that answers with nothing but the fault; a failed try waits for a minute."""
    source = folder / "in.csv"
    source.touch()
    retry = RetryPolicy(first_wait_ms=60_000, longest_wait_ms=60_000)
    async with (
        asyncio.timeout(30),
        serving(Faulty(before=fault)) as url,
        Poster(url, connections=connections, timeout_s=20, retry=retry, stop=stop, notify=lambda _: None) as poster,
    ):
        with RejectedFile(folder / "refused.csv", source) as rejected:
            yield ImportFlow(poster, stop, rejected, Counter(), Progress(Console(quiet=True), 1, lambda _: None))


async def test_reading_ahead_of_a_slow_batch_is_bounded(tmp_path: Path) -> None:
    """While the oldest batch is unanswered the others pass it, but only a window far."""
    window = 2 * WINDOW_PER_CONNECTION
    batches, gate, read_meanwhile = Batches(), asyncio.Event(), 0

    async def hold_first(number: int, body: Any) -> Response:  # noqa: ARG001  # a Fault
        nonlocal read_meanwhile
        if number == 1:
            await gate.wait()
        if number == window:
            read_meanwhile = batches.read
            gate.set()
        return CREATED

    async with flow_against(hold_first, tmp_path, connections=2, stop=StopFlag()) as flow:
        await flow.run(batches)
    assert read_meanwhile == window
    assert flow.counts.total() == 100


async def test_stop_ends_the_reading(tmp_path: Path) -> None:
    """After Ctrl-C no more of the file is read or sent; what was under way is counted, what was waiting is no failure."""
    batches, stop, sent = Batches(), StopFlag(), 0

    async def stop_at_three(number: int, body: Any) -> Response:  # noqa: ARG001  # a Fault
        nonlocal sent
        sent = number
        if number == 3:
            stop.set()
        return CREATED

    async with flow_against(stop_at_three, tmp_path, connections=1, stop=stop) as flow:
        await flow.run(batches)
    assert sent == flow.counts.total() == 3
    assert batches.read < 10


async def test_cause_is_reported_rather_than_its_consequence(tmp_path: Path) -> None:
    """An earlier batch that is waiting for its next try is given up when a later one finds the import hopeless."""
    second_came = asyncio.Event()

    async def first_away_then_forbidden(number: int, body: Any) -> Response:  # noqa: ARG001  # a Fault
        if body["items"][0]["id"] == "p0":
            await second_came.wait()
            return problem(503, "away")
        second_came.set()
        return problem(403, "forbidden")

    async with flow_against(first_away_then_forbidden, tmp_path, connections=2, stop=StopFlag()) as flow:
        with pytest.raises(ImportStopped, match="forbidden"):
            await flow.run(Batches())
