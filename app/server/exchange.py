"""One request as the application gets it from this server: what is whole is taken and sent at once (``app.api.exchange``).

uvicorn writes the head and the body of an answer one after the other. Each write is a system call that wakes the client, which
costs both sides more than the copy. Whatever is not whole, or has to wait, goes through uvicorn.
"""

from collections.abc import Awaitable, Generator, Iterable
from functools import lru_cache
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from app.api.exchange import WHOLE_ANSWERS

_FORBIDDEN = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])
"""The characters that no value of a header may contain, as uvicorn sees it."""
_CONNECTION = b"connection"
"""The field that decides whether the connection stays open. uvicorn takes note of it."""
_OFFER: dict[str, dict[object, object]] = {WHOLE_ANSWERS: {}}


class _Nothing(Awaitable[None]):
    """An awaitable that is finished already."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


_DONE = _Nothing()


def head_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as they are written."""
    parts: list[bytes] = []
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    return b"".join(parts)


@lru_cache(maxsize=4)
def usual_lines(*headers: tuple[bytes, bytes]) -> bytes:
    """Return the headers of every answer as they are written. They are the same until the next second."""
    return head_lines(headers)


class Exchange:
    """The ``receive`` and ``send`` that the application gets for one request.

    Nothing of it is kept in the scope: the cycle, which has the scope, would then be garbage that only a collection finds.
    """

    __slots__ = ("_app", "_cycle")

    def __init__(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:
        self._cycle = cycle
        self._app = app

    def serve(self, scope: Scope, _receive: Receive, _send: Send) -> Awaitable[None]:
        """Call the application, as uvicorn calls it."""
        scope["extensions"] = _OFFER
        return self._app(scope, self, self.send)

    def __call__(self) -> Awaitable[Message]:
        """Receive as ASGI says."""
        return cast("Awaitable[Message]", self._cycle.receive())

    def take_body(self) -> bytes | None:
        """Return the body if it has arrived as a whole and nobody waits for anything else."""
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected or cycle.response_complete or cycle.waiting_for_100_continue:
            return None
        if cycle.flow.read_paused or not cycle.message_event.is_set():
            return None  # receiving it resumes reading; the event is cleared once the body has been received
        body = bytes(cycle.body)
        cycle.body = bytearray()
        cycle.message_event.clear()
        return body

    def send(self, message: Message) -> Awaitable[None]:
        """Send a message of the application, which may be a whole answer."""
        if "body" not in message or message["type"] != "http.response.start":
            return cast("Awaitable[None]", self._cycle.send(cast("Any", message)))
        return _DONE if self._write(message) else self._send_in_parts(message)

    def _write(self, answer: Message) -> bool:
        """Write a whole answer, and return ``False`` if it is left to uvicorn: it has to wait, or cannot be written."""
        cycle = self._cycle
        if cycle.flow.write_paused or cycle.disconnected or cycle.response_started:
            return False
        headers = answer["headers"]
        lines = head_lines(headers)
        # Every line has two of them, at its end.
        if len(lines.translate(None, _FORBIDDEN)) != len(lines) - 2 * len(headers) or _CONNECTION in dict(headers):
            return False
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(
            b"".join(
                (
                    STATUS_LINE[answer["status"]],
                    usual_lines(*cycle.default_headers),
                    lines,
                    b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n",
                    answer["body"],
                )
            )
        )
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True

    async def _send_in_parts(self, answer: Message) -> None:
        body = answer.pop("body")
        await self._cycle.send(cast("Any", answer))
        await self._cycle.send({"type": "http.response.body", "body": body, "more_body": False})
