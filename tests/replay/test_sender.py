"""One invoice against a real server: every answer that the table of `sender` names."""

from collections.abc import Callable

import pytest
from fastapi import Response
from fastapi.responses import JSONResponse, RedirectResponse

from app.importer.errors import GivenUp, ServiceStopped
from app.importer.retry import RetryPolicy, Stopping
from app.replay.adjustments import Adjustment
from app.replay.sales import SaleLine
from app.replay.sender import Accepted, AdjustmentSender, NotAccepted
from tests.importer.standin import NoAnswer
from tests.replay.standin import Body, Fault, Shop, open_shop, refusal

INVOICE = Adjustment("536365", 1, [SaleLine(2, "536365", "a", 3), SaleLine(3, "536365", "b", -1)])


def fails(times: int, answer: Callable[[], Response]) -> Fault:
    """A fault of the first so many requests."""

    async def fault(number: int, body: Body) -> Response | None:  # noqa: ARG001  # a Fault
        return answer() if number <= times else None

    return fault


async def send(
    url: str, *, retries: int = 3, stopping: Stopping | None = None, timeout_s: float = 20
) -> tuple[Accepted | NotAccepted, int]:
    sender = AdjustmentSender(
        url,
        clients=1,
        timeout_s=timeout_s,
        retry=RetryPolicy(retries=retries, first_wait_ms=1, longest_wait_ms=2, longest_retry_after_ms=3),
        stopping=stopping or Stopping(),
        notify=lambda _: None,
    )
    try:
        return await sender.send(INVOICE, "run:1:536365:1"), sender.retries
    finally:
        await sender.close()


def busy() -> Response:
    answer = refusal("request-in-progress", 409)
    answer.headers["Retry-After"] = "1"
    return answer


@pytest.mark.parametrize(
    "answer",
    [
        busy,
        lambda: refusal("overloaded", 503),
        lambda: refusal("outcome-unknown", 503),
        lambda: refusal("internal-error", 500),
        lambda: Response("Bad gateway", 502),
        lambda: Response("slow down", 429),
        NoAnswer,
    ],
    ids=["409 in progress", "503", "503 outcome unknown", "500", "502", "429", "connection lost"],
)
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_passing_failure_is_tried_again_and_done_once(answer: Callable[[], Response], moment: str) -> None:
    """Before or after the units are booked, every try has the same key and the same bytes: they are booked once."""
    shop = Shop({"a": 10, "b": 0}, **{moment: fails(2, answer)})
    async with open_shop(shop) as url:
        got = await send(url)
    assert got == (Accepted(replayed=moment == "after"), 2)
    assert shop.stocks == {"a": 7, "b": 1}
    assert shop.keys == ["run:1:536365:1"] * 3
    assert all(body == shop.requests[0] for body in shop.requests)


async def test_shortage_is_a_refusal_and_not_tried_again() -> None:
    """The problem is handed on whole, so that it can be checked."""
    shop = Shop({"a": 2, "b": 5})
    async with open_shop(shop) as url:
        first, retries = await send(url)
        second, _ = await send(url)
    assert isinstance(first, NotAccepted)
    assert (first.status, first.replayed, retries) == (409, False, 0)
    assert first.problem["shortages"] == [{"product_id": "a", "available": 2, "requested": 3, "version": 1}]
    assert second == NotAccepted(replayed=True, status=409, problem=first.problem)
    assert shop.stocks == {"a": 2, "b": 5}


async def test_missing_product_is_a_refusal() -> None:
    """Only this 404 is one: it names the products."""
    async with open_shop(Shop({"a": 9})) as url:
        answer, _ = await send(url)
    assert isinstance(answer, NotAccepted)
    assert (answer.status, answer.problem["missing"]) == (404, ["b"])


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_request_that_breaks_a_rule_is_a_refusal(status: int) -> None:
    """Text that is no JSON is kept as it came."""
    async with open_shop(Shop({}, before=fails(1, lambda: Response("no", status)))) as url:
        assert await send(url) == (NotAccepted(replayed=False, status=status, problem="no"), 0)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: refusal("route-not-found", 404), "404.*Is this the address of a Larder"),
        (lambda: refusal("not-implemented", 501, detail="not yet"), "501.*not yet"),
        (lambda: Response("who are you", 401), "401"),
        (lambda: RedirectResponse("http://elsewhere/"), "redirects to http://elsewhere/"),
        (lambda: Response("<html>hello</html>"), "not with the lines that were sent"),
        (lambda: JSONResponse([]), "not with the lines that were sent"),
        (lambda: JSONResponse({"lines": []}), "not with the lines that were sent"),
        (lambda: JSONResponse({"lines": [{"product_id": "a", "delta": -3}]}), "not with the lines that were sent"),
        (
            lambda: JSONResponse({"lines": [{"product_id": "a", "delta": 3}, {"product_id": "b", "delta": -1}]}),
            "not with the lines that were sent",
        ),
    ],
)
async def test_answer_that_no_retry_mends_stops_the_replay(answer: Callable[[], Response], words: str) -> None:
    """Once is enough: the other invoices would fare no better."""
    shop = Shop({"a": 10, "b": 0}, before=fails(99, answer))
    async with open_shop(shop) as url:
        with pytest.raises(ServiceStopped, match=words):
            await send(url)
    assert len(shop.requests) == 1


async def test_tries_are_bounded() -> None:
    """The message names the invoice and the last failure."""
    shop = Shop({}, before=fails(99, lambda: refusal("overloaded", 503, detail="too much")))
    async with open_shop(shop) as url:
        with pytest.raises(ServiceStopped, match=r"invoice 536365 in 3 tries.*too much"):
            await send(url, retries=2)
    assert len(shop.requests) == 3


async def test_stopping_replay_does_not_try_again() -> None:
    """What failed then is of unknown fate, and left for the next run."""
    stopping = Stopping()
    stopping.request()
    shop = Shop({}, before=fails(99, busy))
    async with open_shop(shop) as url:
        with pytest.raises(GivenUp):
            await send(url, stopping=stopping)
    assert len(shop.requests) == 1
