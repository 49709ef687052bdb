"""Answers as they are handed to a server: whole where that is enough, and otherwise as the framework sends them."""

import asyncio

from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Scope

from app.api.exchange import WHOLE_ANSWERS, deliver

OFFERED: Scope = {"type": "http", "extensions": {WHOLE_ANSWERS: {}}}
PLAIN: Scope = {"type": "http"}


async def sent(response: Response, scope: Scope) -> list[Message]:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    async def receive() -> Message:
        await asyncio.Event().wait()  # the client stays
        raise AssertionError

    await deliver(response, scope, receive, send)
    return messages


async def test_a_complete_answer_is_one_message_if_the_server_takes_that() -> None:
    """Otherwise it is two, as ASGI says."""
    [whole] = await sent(Response(b"body"), OFFERED)
    assert whole["body"] == b"body"
    head, body = await sent(Response(b"body"), PLAIN)
    assert (head["type"], body["body"]) == ("http.response.start", b"body")


async def test_what_has_more_to_do_is_sent_by_the_framework() -> None:
    """A stream, and an answer with work after it, are more than their bytes."""
    done: list[int] = []
    assert len(await sent(Response(b"body", background=BackgroundTask(done.append, 1)), OFFERED)) == 2
    assert done == [1]
    assert len(await sent(StreamingResponse(iter([b"a", b"b"])), OFFERED)) > 2
