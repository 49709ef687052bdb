"""The ceiling: what uvicorn reaches when an ASGI function looks a path up among finished answers, and does nothing else.

The answers are Larder's own hits, header bytes and bodies, read from the file that PEER_ANSWERS names: JSON, by path the
headers as pairs and the body.
"""

import json
import os
from pathlib import Path

from starlette.types import Message, Receive, Scope, Send

_READY = {"/readyz": ([("content-length", "0")], "")}


def _messages(headers: list[tuple[str, str]], body: str) -> tuple[Message, Message]:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    start: Message = {"type": "http.response.start", "status": 200, "headers": raw}
    return start, {"type": "http.response.body", "body": body.encode()}


_answers = {
    path: _messages(headers, body)
    for path, (headers, body) in (_READY | json.loads(Path(os.environ["PEER_ANSWERS"]).read_text())).items()
}


async def app(scope: Scope, _: Receive, send: Send) -> None:
    if scope["type"] == "http":
        start, body = _answers[scope["path"]]
        await send(start)
        await send(body)
