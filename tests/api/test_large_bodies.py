"""Large bodies hold nobody up: the loop turns while they are counted, parsed, checked and answered."""

import asyncio
import json
import time
import tracemalloc
from dataclasses import replace

import httpx
import pytest

from app.api.bodies import MAX_VALUES, has_too_many_values
from app.api.models import MAX_BATCH, MAX_LINES
from app.settings import Settings
from tests.api.conftest import Service
from tests.api.problem import places, problem, send
from tests.harness.large_bodies import ADJUSTMENTS, LARGE_BODIES, MOST_BYTES

_LONGEST_S = 0.05
_TRIES = 8


class Beat:
    """Runs beside what is measured: the most processor time of this process between two turns of the loop."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def run(self) -> None:
        last = time.process_time()
        while True:
            await asyncio.sleep(0)
            now = time.process_time()
            self.longest_s = max(self.longest_s, now - last)
            last = now


@pytest.fixture
def large(service: Service) -> Service:
    """The service with the usual limit of a body."""
    service.app.state.larder = replace(service.app.state.larder, settings=Settings.from_env({}))
    return service


@pytest.mark.parametrize("name", LARGE_BODIES)
async def test_nothing_holds_the_loop_for_long(large: Service, client: httpx.AsyncClient, name: str) -> None:
    """Six at once, and an answer to each. The least of some tries, because garbage may be collected in one, and a busy system
    may let the loop wait while the thread that parses runs on.
    """
    path, body = LARGE_BODIES[name]
    longest = []
    for _ in range(_TRIES):
        beat = Beat()
        beating = asyncio.create_task(beat.run())
        answers = await asyncio.gather(*(send(client, "POST", path, body) for _ in range(6)))
        beating.cancel()
        assert {answer.status_code for answer in answers} <= {200, 400, 422}
        assert max(len(answer.content) for answer in answers) < 1_000_000
        longest.append(beat.longest_s)
        if beat.longest_s < _LONGEST_S:
            break
    assert min(longest) < _LONGEST_S
    assert large.database.fault is None


@pytest.mark.parametrize("name", ["members", "lists", "numbers", "items that are wrong"])
async def test_a_large_body_is_not_many_objects(large: Service, client: httpx.AsyncClient, name: str) -> None:
    """Its own bytes a few times over, not a hundred: six at once of 350 MB each would end the process."""
    del large
    path, body = LARGE_BODIES[name]
    tracemalloc.start()
    try:
        await send(client, "POST", path, body)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * MOST_BYTES


async def test_the_largest_requests_are_taken(large: Service, client: httpx.AsyncClient) -> None:
    """A thousand whole products with every character escaped, then two thousand lines; one line more is too many."""
    path, body = LARGE_BODIES["whole products"]
    answer = await send(client, "POST", path, body)
    assert {result["outcome"] for result in answer.json()["results"]} == {"created"}
    lines = [{"product_id": f"{i % MAX_BATCH:064}", "delta": 1} for i in range(MAX_LINES)]
    body = json.dumps({"lines": lines, "reason": "sale", "reference": '\\"[{,' * 40}, indent=8).encode()
    answer = await send(client, "POST", ADJUSTMENTS, body)
    assert [len(answer.json()["lines"]), len(large.tables.rows)] == [MAX_LINES, MAX_BATCH]
    refused = await send(client, "POST", ADJUSTMENTS, {"lines": [*lines, lines[0]], "reason": "sale"})
    assert places(problem(refused, "invalid-request")) == ["#/lines"]


@pytest.mark.usefixtures("large")
async def test_a_body_of_too_many_values_says_so(client: httpx.AsyncClient) -> None:
    """In its place in the order of errors: a header that cannot be understood comes before it."""
    body = b'{"lines":[' + b"1," * MAX_VALUES + b"1]}"
    refused = problem(await send(client, "POST", ADJUSTMENTS, body), "invalid-request")
    assert places(refused) == ["#"]
    assert str(MAX_VALUES) in json.dumps(refused["errors"])
    problem(await send(client, "POST", ADJUSTMENTS, body, {"Idempotency-Key": ""}), "invalid-header")


@pytest.mark.usefixtures("large")
async def test_faults_beyond_the_list_are_mentioned(client: httpx.AsyncClient) -> None:
    """Fifty are listed, in the order of the lines, and the sentence says that there are more."""
    refused = problem(await send(client, "POST", *LARGE_BODIES["lines that are wrong"]), "invalid-request")
    assert len(places(refused)) == 50
    assert places(refused)[:2] == ["#/lines/0/product_id", "#/lines/0/delta"]
    assert "More than 50" in str(refused["detail"])
    wide = problem(await send(client, "POST", *LARGE_BODIES["a wide line"]), "invalid-request")
    assert places(wide) == ["#/lines/0"]
    results = (await send(client, "POST", *LARGE_BODIES["items that are wrong"])).json()["results"]
    counts = [len(result["problem"]["errors"]) for result in results]
    assert (len(counts), counts[0], counts[-1], sum(counts) < 2_100) == (MAX_BATCH, 16, 1, True)


@pytest.mark.parametrize("cut", range(40))
async def test_marks_inside_of_strings_are_no_values(cut: int) -> None:
    """Wherever a slice ends: within an escape, a run of backslashes, or beside a quote."""
    unit = b'"\\\\\\",[{\\\\",'
    inside = b"[" + b" " * cut + unit * (MAX_VALUES - 10) + b"1]"
    assert not await has_too_many_values(inside)
    json.loads(inside)
    assert await has_too_many_values(b"[" + b" " * cut + unit * (MAX_VALUES + 10) + b"1]")
