"""One batch over HTTP: every answer that the tables of ``posting`` and ``sender`` name."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from app.importer.errors import GivenUp, ImportStopped
from app.importer.posting import Poster
from app.importer.retry import RetryPolicy
from app.importer.rows import Row
from app.importer.sender import Result, send_rows
from app.importer.stopping import StopFlag
from tests.importer.faulty import Faulty, Larder, NoAnswer, closed_port, fails, problem, serving


def rows(*ids: str) -> list[Row]:
    return [
        Row(line, row_id, json.dumps({"id": row_id, "name": row_id, "price_cents": 1}).encode())
        for line, row_id in enumerate(ids, start=2)
    ]


async def send(
    url: str, batch: list[Row], *, retries: int = 3, timeout_s: float = 20, stop: StopFlag | None = None
) -> tuple[list[Result], list[str]]:
    notices: list[str] = []
    retry = RetryPolicy(retries=retries, first_wait_ms=1, longest_wait_ms=2, longest_retry_after_ms=3)
    poster = Poster(
        url, connections=1, timeout_s=timeout_s, retry=retry, stop=stop or StopFlag(), notify=notices.append
    )  # fmt: skip
    async with poster:
        return await send_rows(poster, batch), notices


def outcomes(results: list[Result]) -> list[str]:
    return [result.outcome for result in results]


def answers(*indices_and_outcomes: tuple[object, object]) -> Response:
    return JSONResponse({"results": [{"index": index, "outcome": outcome} for index, outcome in indices_and_outcomes]})


async def test_outcomes_stand_in_the_order_of_the_rows() -> None:
    """Results are put back by their index, whatever order they come in."""
    reversed_answer = answers((2, "updated"), (1, "updated"), (0, "created"))
    async with serving(Faulty(before=fails(1, lambda: reversed_answer))) as url:
        results, _ = await send(url, rows("a", "b", "c"))
    assert outcomes(results) == ["created", "updated", "updated"]


async def test_refused_item_has_the_reason_of_the_service(larder: Larder) -> None:
    """The problem's detail and its single errors become one line."""
    results, notices = await send(larder.url, rows("a", "not legal", "b"))
    assert outcomes(results) == ["created", "refused", "created"]
    assert "id" in results[1].reason
    assert "\n" not in results[1].reason
    assert notices == []


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_passing_failure_is_tried_again(larder: Larder, moment: str) -> None:
    """Whether it struck before or after the batch was stored: each row has its outcome, and is stored once."""
    passing: list[Callable[[], Response]] = [
        lambda: problem(503, "Postgres is away", Retry_After="1"),
        lambda: problem(503, "overloaded"),
        lambda: problem(429, "slow down", Retry_After="1"),
        lambda: problem(408),
        lambda: problem(500, "oops"),
        lambda: problem(409, "under way", "request-in-progress"),
        lambda: Response("<html>Bad gateway</html>", 502),
        NoAnswer,
    ]
    waiting = iter(passing)

    async def fault(number: int, body: Any) -> Response | None:  # noqa: ARG001  # a Fault
        return next(waiting, lambda: None)()

    setattr(larder, moment, fault)
    results, notices = await send(larder.url, rows("a", "b"), retries=len(passing))
    assert outcomes(results) == ["created"] * 2
    assert len(notices) == len(passing)
    assert len(larder.requests) == len(passing) + 1
    assert all(request == larder.requests[0] for request in larder.requests)
    assert len(set(larder.keys)) == 1
    assert {row["id"]: row["version"] for row in (await larder.products()).values()} == {"a": 1, "b": 1}


async def test_tries_are_bounded() -> None:
    """One try and so many repeats, then the import stops and says which lines and why."""
    service = Faulty(before=fails(99, lambda: problem(503, "Postgres is away")))
    async with serving(service) as url:
        with pytest.raises(ImportStopped, match=r"lines 2-3 in 3 tries.*503.*Postgres is away"):
            await send(url, rows("a", "b"), retries=2)
    assert len(service.requests) == 3


async def test_nobody_listens() -> None:
    """A refused connection is tried again, and then named with the address."""
    with closed_port() as url, pytest.raises(ImportStopped, match=f"{url} did not take lines 2-2 in 2 tries"):
        await send(url, rows("a"), retries=1)


@pytest.mark.parametrize("trickles", [False, True])
async def test_answer_that_does_not_end_is_given_up(*, trickles: bool) -> None:
    """A server that hangs costs the time-out, which is for the whole answer: a byte now and then does not prolong it."""
    gate = asyncio.Event()

    async def trickle() -> AsyncIterator[bytes]:
        while not gate.is_set():
            yield b" "
            await asyncio.sleep(0.02)

    async def first_hangs(number: int, body: Any) -> Response:  # noqa: ARG001  # a Fault
        if number == 1 and trickles:
            return StreamingResponse(trickle())
        if number == 1:
            await gate.wait()
        return answers((0, "created"))

    async with serving(Faulty(before=first_hangs)) as url, asyncio.timeout(20):
        results, notices = await send(url, rows("a"), timeout_s=0.3)
        gate.set()
    assert outcomes(results) == ["created"]
    assert "no answer within 0.3 s" in notices[0]


async def test_body_too_large_is_halved(larder: Larder) -> None:
    """A proxy may allow less than the service; what fits arrives, a single row that does not is refused."""

    async def at_most_two(number: int, body: Any) -> Response | None:  # noqa: ARG001  # a Fault
        too_large = len(body["items"]) > 2 or any(item["id"] == "e" for item in body["items"])
        return Response("too large", 413) if too_large else None

    larder.before = at_most_two
    results, _ = await send(larder.url, rows(*"abcdefg"))
    assert outcomes(results) == ["refused" if row_id == "e" else "created" for row_id in "abcdefg"]
    assert results[4].reason.startswith("413")
    assert set(await larder.products()) == set("abcdfg")


@pytest.mark.parametrize("status", [400, 422])
async def test_whole_batch_refused_refuses_each_row(status: int) -> None:
    """Nothing of it is lost: each row gets the reason, and the next batch is sent."""
    async with serving(Faulty(before=fails(1, lambda: problem(status, "envelope")))) as url:
        results, notices = await send(url, rows("a", "b"))
    assert outcomes(results) == ["refused", "refused"]
    assert all(f"{status}" in result.reason and "envelope" in result.reason for result in results)
    assert "lines 2-3" in notices[0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: problem(401, "who are you"), "401.*who are you"),
        (lambda: problem(404, "no such route"), "404.*Is this the address of a Larder"),
        (lambda: problem(409, "something else"), "409.*something else"),
        (lambda: problem(501, "not yet"), "501.*not yet"),
        (lambda: RedirectResponse("http://elsewhere/"), "redirects to http://elsewhere/"),
        (lambda: Response("<html>hello</html>"), "not with one result for each"),
        (lambda: JSONResponse([]), "not with one result for each"),
        (answers, "not with one result for each"),
        (lambda: answers((0, "created"), (0, "created")), "not with one result for each"),
        (lambda: answers((0, "eaten")), "not with one result for each"),
        (lambda: answers((True, "created")), "not with one result for each"),
        (lambda: answers((7, "created")), "not with one result for each"),
        (lambda: answers((0, [])), "not with one result for each"),
        (lambda: problem(401, "no valid key."), r"no valid key\. Other.*--key-file"),
    ],
)
async def test_answer_that_no_retry_mends_stops_the_import(answer: Callable[[], Response], words: str) -> None:
    """Once is enough: the other batches would fare no better."""
    service = Faulty(before=fails(99, answer))
    async with serving(service) as url:
        with pytest.raises(ImportStopped, match=words):
            await send(url, rows("a"))
    assert len(service.requests) == 1


async def test_stopping_import_does_not_try_again() -> None:
    """What failed while the import is stopping is left for the next run, and what was not sent is not begun."""
    stop = StopFlag()

    async def stop_and_fail(number: int, body: Any) -> Response:  # noqa: ARG001  # a Fault
        stop.set()
        return problem(503, "overloaded")

    service = Faulty(before=stop_and_fail)
    async with serving(service) as url:
        for _ in range(2):
            with pytest.raises(GivenUp):
                await send(url, rows("a"), stop=stop)
    assert len(service.requests) == 1


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://host/", "http://", "http://a:b:c/", "http://host:99999"])
async def test_bad_url(url: str) -> None:
    """Refused before anything is read or sent."""
    with pytest.raises(ImportStopped, match="--url"):
        await send(url, rows("a"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080"),
        ("HTTP_PROXY", "gopher://proxy"),
        ("HTTPS_PROXY", "http://[::1"),
        ("SSL_CERT_FILE", "/absent"),
    ],
)
async def test_environment_that_cannot_be_used(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    """It is a sentence, not a traceback, and names the variable; a proxy does not concern a Larder on this machine."""
    environment.setenv(name, value)
    with pytest.raises(ImportStopped, match=name):
        await send("http://larder.example", rows("a"))
    if name != "SSL_CERT_FILE":
        with closed_port() as url, pytest.raises(ImportStopped):
            await send(url, rows("a"), retries=0)


async def test_password_in_the_url_is_not_shown() -> None:
    """Messages end up in logs."""
    url = "http://user:secret@127.0.0.1:1/base/"
    async with Poster(url, connections=1, timeout_s=1, retry=RetryPolicy(), stop=StopFlag(), notify=print) as poster:
        assert poster.shown_url == "http://127.0.0.1:1/base"
