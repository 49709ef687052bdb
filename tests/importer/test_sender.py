"""One batch against a real server: every answer that the table of `sender` names."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.responses import RedirectResponse

from app.importer.errors import BadInput, GivenUp, ServiceStopped
from app.importer.retry import RetryPolicy, Stopping
from app.importer.rows import Row
from app.importer.sender import BatchSender, Result
from tests.importer.standin import Fault, Item, NoAnswer, StandIn, closed_port, problem, serving


def rows(*ids: str, **fields: Any) -> list[Row]:
    return [
        Row(line, row_id, json.dumps({"id": row_id, "name": row_id, "price_cents": 1, **fields}).encode())
        for line, row_id in enumerate(ids, start=2)
    ]


def fails(times: int, answer: Callable[[], Response]) -> Fault:
    """A fault of the first so many requests."""

    async def fault(number: int, items: list[Item]) -> Response | None:  # noqa: ARG001  # a Fault
        return answer() if number <= times else None

    return fault


async def send(url: str, batch: list[Row], *, retries: int = 3, timeout_s: float = 20) -> tuple[list[Result], list[str]]:
    notices: list[str] = []
    policy = RetryPolicy(retries=retries, first_wait_ms=1, longest_wait_ms=2, longest_retry_after_ms=3)
    sender = BatchSender(url, connections=1, timeout_s=timeout_s, retry=policy, stopping=Stopping(), notify=notices.append)
    try:
        return await sender.send(batch), notices
    finally:
        await sender.close()


async def test_outcomes_stand_in_the_order_of_the_rows() -> None:
    """Results are put back by their index, whatever order they come in."""

    async def reversed_answer(number: int, items: list[Item]) -> Response:  # noqa: ARG001  # a Fault
        results = [{"index": index, "outcome": "updated" if index else "created"} for index in range(len(items))]
        return JSONResponse({"results": results[::-1]})

    async with serving(StandIn(after=reversed_answer)) as url:
        results, _ = await send(url, rows("a", "b", "c"))
    assert [result.outcome for result in results] == ["created", "updated", "updated"]


async def test_refused_item_has_the_reason_of_the_service() -> None:
    """The problem's detail and its single errors become one line."""
    async with serving(StandIn()) as url:
        results, notices = await send(url, rows("a", "not legal", "b"))
    assert [result.outcome for result in results] == ["created", "refused", "created"]
    assert results[1].reason == "not acceptable; #/id illegal id"
    assert notices == []


@pytest.mark.parametrize(
    "answer",
    [
        lambda: problem(503, "Postgres is away", Retry_After="1"),
        lambda: problem(503, "overloaded"),
        lambda: problem(429, "slow down", Retry_After="1"),
        lambda: problem(500, "oops"),
        lambda: Response("<html>Bad gateway</html>", 502),
        NoAnswer,
    ],
    ids=["503 with Retry-After", "503", "429", "500", "502 that is not JSON", "connection lost"],
)
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_passing_failure_is_tried_again(answer: Callable[[], Response], moment: str) -> None:
    """Whether it struck before or after the batch was stored: the state is the same, each row has its outcome."""
    standin = StandIn(**{moment: fails(3, answer)})
    async with serving(standin) as url:
        results, notices = await send(url, rows("a", "b"), retries=3)
    assert [result.outcome for result in results] == ["created"] * 2
    assert len(notices) == 3
    assert len(standin.requests) == 4
    assert all(request == standin.requests[0] for request in standin.requests)
    assert standin.state() == {
        key: {"id": key, "name": key, "price_cents": 1, "stock": 0, "reorder_point": 0} for key in ("a", "b")
    }


async def test_tries_are_bounded() -> None:
    """One try and so many repeats, then the import stops and says which lines and why."""
    standin = StandIn(before=fails(99, lambda: problem(503, "Postgres is away")))
    async with serving(standin) as url:
        with pytest.raises(ServiceStopped, match=r"lines 2-3 in 3 tries.*503.*Postgres is away"):
            await send(url, rows("a", "b"), retries=2)
    assert len(standin.requests) == 3


async def test_nobody_listens() -> None:
    """A refused connection is tried again, and then named with the address."""
    with closed_port() as url, pytest.raises(ServiceStopped, match=f"{url} did not take lines 2-2 in 2 tries"):
        await send(url, rows("a"), retries=1)


async def test_answer_that_does_not_come_is_given_up() -> None:
    """A server that hangs costs the time-out, not the import."""
    gate = asyncio.Event()

    async def hang(number: int, items: list[Item]) -> None:  # noqa: ARG001  # a Fault
        if number == 1:
            await gate.wait()

    async with serving(StandIn(before=hang)) as url:
        results, notices = await send(url, rows("a"), timeout_s=0.2)
        gate.set()
    assert [result.outcome for result in results] == ["created"]
    assert "no answer within 0.2 s" in notices[0]


async def test_answer_that_trickles_is_given_up() -> None:
    """The time-out is for the whole answer: a byte now and then does not prolong it."""
    gate = asyncio.Event()

    async def trickle() -> AsyncIterator[bytes]:
        while not gate.is_set():
            yield b" "
            await asyncio.sleep(0.02)

    async def first_trickles(number: int, items: list[Item]) -> Response | None:  # noqa: ARG001  # a Fault
        return StreamingResponse(trickle()) if number == 1 else None

    async with serving(StandIn(before=first_trickles)) as url, asyncio.timeout(20):
        results, notices = await send(url, rows("a"), timeout_s=0.3)
        gate.set()
    assert [result.outcome for result in results] == ["created"]
    assert "no answer within 0.3 s" in notices[0]


async def test_body_too_large_is_halved() -> None:
    """A proxy may allow less than the service; what fits arrives, a single row that does not is refused."""

    async def at_most_two(number: int, items: list[Item]) -> Response | None:  # noqa: ARG001  # a Fault
        too_large = len(items) > 2 or any(item["id"] == "e" for item in items)
        return Response("too large", 413) if too_large else None

    async with serving(StandIn(before=at_most_two)) as url:
        results, _ = await send(url, rows(*"abcdefg"))
    assert [result.outcome for result in results] == ["refused" if row_id == "e" else "created" for row_id in "abcdefg"]
    assert results[4].reason.startswith("413")


@pytest.mark.parametrize("status", [400, 422])
async def test_whole_batch_refused_refuses_each_row(status: int) -> None:
    """Nothing of it is lost: each row gets the reason, and the next batch is sent."""
    async with serving(StandIn(before=fails(1, lambda: problem(status, "envelope")))) as url:
        results, notices = await send(url, rows("a", "b"))
    assert [result.outcome for result in results] == ["refused", "refused"]
    assert all(f"{status}" in result.reason and "envelope" in result.reason for result in results)
    assert "lines 2-3" in notices[0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: problem(401, "who are you"), "401.*who are you"),
        (lambda: problem(404, "no such route"), "404.*Is this the address of a Larder"),
        (lambda: problem(501, "not yet"), "501.*not yet"),
        (lambda: RedirectResponse("http://elsewhere/"), "redirects to http://elsewhere/"),
        (lambda: Response("<html>hello</html>"), "not with one result for each"),
        (lambda: JSONResponse([]), "not with one result for each"),
        (lambda: JSONResponse({"results": []}), "not with one result for each"),
        (lambda: JSONResponse({"results": [{"index": 0, "outcome": "created"}] * 2}), "not with one result for each"),
        (lambda: JSONResponse({"results": [{"index": 0, "outcome": "eaten"}]}), "not with one result for each"),
        (lambda: JSONResponse({"results": [{"index": True, "outcome": "created"}]}), "not with one result for each"),
        (lambda: JSONResponse({"results": [{"index": 7, "outcome": "created"}]}), "not with one result for each"),
        (lambda: JSONResponse({"results": [{"index": 0, "outcome": []}]}), "not with one result for each"),
    ],
)
async def test_answer_that_no_retry_mends_stops_the_import(answer: Callable[[], Response], words: str) -> None:
    """Once is enough: the other batches would fare no better."""
    standin = StandIn(before=fails(99, answer))
    async with serving(standin) as url:
        with pytest.raises(ServiceStopped, match=words):
            await send(url, rows("a"))
    assert len(standin.requests) == 1


async def test_stopping_import_does_not_try_again() -> None:
    """What failed while the import is stopping is left for the next run."""
    stopping = Stopping()

    async def stop_and_fail(number: int, items: list[Item]) -> Response:  # noqa: ARG001  # a Fault
        stopping.request()
        return problem(503, "overloaded")

    standin = StandIn(before=stop_and_fail)
    async with serving(standin) as url:
        sender = BatchSender(url, connections=1, timeout_s=20, retry=RetryPolicy(), stopping=stopping, notify=lambda _: None)
        with pytest.raises(GivenUp):
            await sender.send(rows("a"))
        await sender.close()
    assert len(standin.requests) == 1


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://host/", "http://", "http://a:b:c/", "http://host:99999"])
async def test_bad_url(url: str) -> None:
    """Refused before anything is read or sent."""
    with pytest.raises(BadInput, match="--url"):
        await send(url, rows("a"))


async def test_password_in_the_url_is_not_shown() -> None:
    """Messages end up in logs."""
    sender = BatchSender(
        "http://user:secret@127.0.0.1:1/base/",
        connections=1,
        timeout_s=1,
        retry=RetryPolicy(),
        stopping=Stopping(),
        notify=lambda _: None,
    )
    await sender.close()
    assert sender.shown_url == "http://127.0.0.1:1/base"
