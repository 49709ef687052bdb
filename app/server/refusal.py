"""The answers that connections give without the application: problems as bytes."""

import socket
from collections.abc import Iterable
from http import HTTPStatus

from app.api.problem_types import TYPES
from app.api.problems import MEDIA_TYPE, Problem

_UNREAD = 65_536


def problem_bytes(
    slug: str,
    identity: bytes,
    usual: Iterable[tuple[bytes, bytes]] = (),
    *,
    last: bool = True,
    bodiless: bool = False,
    retry_after_s: int | None = None,
) -> bytes:
    """Return a whole response that carries a problem.

    Args:
        slug: the type of the problem.
        identity: the request's id.
        usual: the headers that every response has.
        last: whether the connection ends after it.
        bodiless: whether the body is left out, as in the answer to HEAD.
        retry_after_s: the pause after which to try again, instead of that of the type.
    """
    kind = TYPES[slug]
    body = Problem(slug, f"{kind.meaning} {kind.remedy}").body()
    headers = [
        *usual,
        (b"cache-control", b"no-store"),
        (b"content-length", b"%d" % len(body)),
        (b"content-type", MEDIA_TYPE.encode()),
        *([] if kind.retry_after_s is None else [(b"retry-after", b"%d" % (retry_after_s or kind.retry_after_s))]),
        (b"x-request-id", identity),
        *([(b"connection", b"close")] if last else []),
    ]
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (
        kind.status,
        HTTPStatus(kind.status).phrase.encode(),
        lines,
        b"" if bodiless else body,
    )


def turn_away(connection: socket.socket, identity: bytes) -> None:
    """Answer a connection that was just accepted with 503 ``overloaded`` and close it, without waiting for its client."""
    with connection:
        try:
            connection.settimeout(0)
            connection.send(problem_bytes("overloaded", identity))
            connection.shutdown(socket.SHUT_WR)
            # A socket that is closed with unread bytes is reset, and the client may then lose the answer.
            connection.recv(_UNREAD)
        except OSError:
            pass  # it has sent nothing yet, or has left
