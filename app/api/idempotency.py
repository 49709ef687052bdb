"""Retries over HTTP: the header ``Idempotency-Key``, what makes two requests the same, and the answer that is told again.

Each operation has one function from what was done to what is told. It makes the answer of the request that did it, and the
one that is kept for a retry inside of the transaction: they are the same bytes.
"""

import hashlib
import re
from collections.abc import Callable, Sequence

from fastapi import FastAPI, Request
from starlette.responses import Response

from app.api.answers import told
from app.api.headers import malformed
from app.api.problems import problem_of
from app.products.errors import Refused
from app.products.idempotency import Answer, Once, Replayed
from app.products.service import Asking, Written

NAME = "Idempotency-Key"
MAX_KEY = 255
_BARE = re.compile(r"[!#-~][ -~]*")
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_ESCAPED = re.compile(r"\\(.)")
_KEPT_REFUSALS = frozenset({404, 409, 412})
"""Refusals that depend on the product as it was then. The others a client can correct and send again with the same key."""

Tell = Callable[[Sequence[Written]], Answer]


def idempotency_key(request: Request) -> str | None:
    """Read the key, bare or as a quoted string (RFC 8941, 3.3.3); ``None`` when none was sent.

    Raises:
        Problem: 400, the header is repeated, or no key.
    """
    lines = request.headers.getlist(NAME)
    if not lines:
        return None
    if len(lines) > 1:
        raise malformed(NAME, "was sent more than once.")
    text = lines[0].strip(" \t")
    if len(text) > 2 * MAX_KEY + 2:  # every character escaped, and the quotes
        raise malformed(NAME, f"must have 1 to {MAX_KEY} characters.")
    if quoted := _QUOTED.fullmatch(text):
        key = _ESCAPED.sub(r"\1", quoted[1])
    elif _BARE.fullmatch(text):
        key = text
    else:
        raise malformed(NAME, f"must be 1 to {MAX_KEY} printable ASCII characters, bare or as one quoted string.")
    if not 1 <= len(key) <= MAX_KEY:
        raise malformed(NAME, f"must have 1 to {MAX_KEY} characters.")
    return key


def request_hash(request: Request, body: bytes) -> bytes:
    """Hash all that makes a request: method, path and query, preconditions, body. Each part has its length before it."""
    scope = request.scope
    conditions = [",".join(request.headers.getlist(name)).encode("latin-1") for name in ("If-Match", "If-None-Match")]
    digest = hashlib.sha256()
    for part in (scope["method"].encode(), scope["raw_path"], scope["query_string"], *conditions, body):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


class Asker:
    """Who sent this request, for the ledger, and whether it is to be done once."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._key = idempotency_key(request)

    def asking(self, tell: Tell, body: bytes = b"") -> Asking:
        """Give what the service is told about the asking; ``tell`` makes the operation's answer."""
        request_id = getattr(self._request.state, "request_id", None)
        if self._key is None:
            return Asking(request_id=request_id)

        def render(result: Sequence[Written] | Refused) -> Answer | None:
            return self._refusal(result) if isinstance(result, Refused) else tell(result)

        return Asking(Once("", self._key, request_hash(self._request, body), render), request_id)

    def _refusal(self, refusal: Refused) -> Answer | None:
        problem = problem_of(refusal)
        if problem.kind.status not in _KEPT_REFUSALS:
            return None
        answer = problem.response(self._request.scope)
        return Answer(answer.status_code, bytes(answer.body), answer.headers.get("ETag"))


async def _replay(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Replayed)  # noqa: S101 - registered for this class alone
    answer = told(error.answer)
    answer.headers["Idempotent-Replayed"] = "true"
    return answer


def install(app: FastAPI) -> None:
    """Let ``app`` tell a kept answer again."""
    app.add_exception_handler(Replayed, _replay)
