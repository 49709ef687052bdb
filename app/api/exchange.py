"""What the server offers besides ASGI: a request that has arrived whole is taken, and a whole answer is sent, in one step.

By ASGI, a body is waited for, and an answer is sent as two messages, each through every layer. Most bodies have arrived before
their requests are looked at, and almost every answer is there as a whole. A server that offers nothing gets what ASGI says.
"""

from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

WHOLE_ANSWERS = "larder.whole_answers"
"""Key in the scope's extensions under which the server says that it takes whole answers: those that have their body, complete
and announced by its length, as ``body`` in the message ``http.response.start``, and no message after it."""


def deliver(response: Response, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """Send a response, in one message if the server takes that."""
    whole = type(response).__call__ is Response.__call__ and response.background is None
    if WHOLE_ANSWERS not in scope.get("extensions", ()) or not whole:
        return response(scope, receive, send)  # without a server, or a stream
    return send(
        {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": response.raw_headers,
            "body": response.body,
        }
    )


def take_body(receive: Receive) -> bytes | None:
    """Return the body if it has arrived as a whole and nobody has received it yet; otherwise it is received.

    The server's ``receive`` has a method that does so.
    """
    take: Callable[[], bytes | None] | None = getattr(receive, "take_body", None)
    return None if take is None else take()
