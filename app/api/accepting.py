"""Writes that are answered with 202 before they are decided (``Prefer: respond-async``, RFC 7240), and their status."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote, unquote

from fastapi import FastAPI, Path, Request
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse, Response

from app.access.keys import Scope
from app.api.conditions import malformed
from app.api.context import caller_of, larder_of
from app.api.openapi import WRITE_STATUS, answers
from app.api.problems import Problem
from app.api.request_state import DECODED, RECORDED, REQUEST_ID
from app.api.responses import NO_STORE, AnswerResponse
from app.api.routes import request_router, requires
from app.products.accepted import AcceptedWrite, Decided, Failed, Queued, WriteState
from app.products.accepted_service import AcceptedWrites
from app.products.commands import Command
from app.products.idempotency import Answer, IdempotencyKey, Origin, WriteRequest

router = request_router("writes")

_PREFERENCE = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^;,"\s]*)\s*)?(?:;[^,]*)?')
WriteKey = Annotated[str, Path(description="the Idempotency-Key of the write", examples=["feed-17"])]
_POLL_S = 0.05
_MOST_WAIT_S = 30
_KEPT_HEADERS = ("If-Match", "If-None-Match", "Larder-Bucket")


@dataclass(frozen=True, slots=True)
class Preference:
    """The client accepts a 202. ``wait_s`` is how long it waits for the decision first; ``None`` if it named no time."""

    wait_s: int | None

    @property
    def applied(self) -> str:
        """The value of ``Preference-Applied``."""
        return "respond-async" if self.wait_s is None else f"respond-async, wait={self.wait_s}"


def preference_of(request: Request) -> Preference | None:
    """Return the preference for an answer before the decision; ``None`` if there is none. Unknown preferences are ignored."""
    lines = request.headers.getlist("Prefer")
    if not lines:
        return None
    named: dict[str, str] = {}
    for part in ",".join(lines).split(","):
        if found := _PREFERENCE.fullmatch(part):
            named.setdefault(found[1].lower(), (found[2] or "").strip('"'))
    if "respond-async" not in named:
        return None
    wait = named.get("wait", "")
    return Preference(min(int(wait), _MOST_WAIT_S) if re.fullmatch("[0-9]{1,6}", wait) else None)


def check_key(key: str | None) -> str:
    """Return the key of a request that is to be accepted. Raises ``Problem`` (400) unless it can name the status."""
    if key is None:
        raise malformed("Idempotency-Key", "is required with Prefer: respond-async, because the status is found by it.")
    if "/" in key or key in (".", ".."):
        raise malformed("Idempotency-Key", 'must have no "/" with Prefer: respond-async, and not be "." or "..".')
    return key


def written_down(request: Request, key: IdempotencyKey, command: Command, content: bytes) -> AcceptedWrite:
    """Return what is kept of a request until it is decided."""
    conditions = [[name, value] for name in _KEPT_HEADERS for value in request.headers.getlist(name)]
    return AcceptedWrite(
        key.caller,
        key.key,
        key.request_hash,
        command.keys,
        request.scope["route"].operation_id,
        request.scope["raw_path"].decode("ascii"),
        json.dumps(conditions),
        content,
        request.scope["state"][REQUEST_ID],
    )


async def accept(accepted: AcceptedWrites, write: AcceptedWrite, preference: Preference) -> Response | None:
    """Accept a request and return the 202, or its answer if it is decided while the client waits.

    Returns ``None`` if it was decided before: the kept answer is then given like any other.
    """
    if isinstance(await accepted.accept(write), Decided):
        return None
    clock = asyncio.get_running_loop().time
    until = clock() + (preference.wait_s or 0)
    while clock() < until:
        await asyncio.sleep(min(_POLL_S, until - clock()))
        state = await accepted.state(write.caller, write.key)
        if isinstance(state, Decided):
            response = AnswerResponse(state.answer)
            response.headers["Preference-Applied"] = preference.applied
            return response
        if not isinstance(state, Queued):
            break
    headers = {
        "Location": f"/writes/{quote(write.key, safe='')}",
        "Preference-Applied": preference.applied,
        "Retry-After": "1",
        "Cache-Control": NO_STORE,
    }
    return JSONResponse({"key": write.key, "state": "queued"}, 202, headers)


@router.get(
    "/writes/{key}",
    operation_id="getWrite",
    summary="Read what became of a write",
    description=(
        "By the Idempotency-Key of the write, for the client that sent it. A write that is `done` is visible to every reader."
        " The service keeps its answer as long as that of any other write with a key."
    ),
    response_class=Response,
    responses=answers(
        {200: WRITE_STATUS},
        ("write-not-found", "invalid-request", "overloaded", "database-unavailable", "outcome-unknown", "internal-error"),
    ),
)
@requires(Scope.LEDGER_READ)
async def get_write(request: Request, key: WriteKey) -> Response:
    """Return whether the write is queued, done or failed, with its kept answer."""
    accepted = larder_of(request).accepted
    # PostgreSQL has no NUL in texts. No key has one, either.
    state = await accepted.state(caller_of(request).name, key) if accepted is not None and "\0" not in key else None
    if state is None:
        raise Problem("write-not-found", "There is no write with this key of yours. Check the key, or send the write again.")
    headers = {"Cache-Control": NO_STORE} | ({"Retry-After": "1"} if isinstance(state, Queued) else {})
    return JSONResponse({"key": key} | _shown(state), 200, headers)


def _shown(state: WriteState) -> dict[str, object]:
    match state:
        case Queued():
            return {"state": "queued", "answer": None, "reason": None}
        case Failed(reason):
            return {"state": "failed", "answer": None, "reason": reason}
        case Decided(answer):
            return {"state": "done", "answer": _members(answer), "reason": None}


def _members(answer: Answer) -> dict[str, object]:
    body = json.loads(answer.body) if answer.body else None
    return {"status": answer.code, "etag": answer.version_tag, "location": answer.location, "body": body}


class Decoder:
    """Makes the command of an accepted write, by the endpoint that a request of a client would reach.

    The endpoint reads and checks the stored request as it would a new one. It then leaves its command and the code that
    renders its answer, and carries nothing out.
    """

    def __init__(self, app: FastAPI, render: Callable[[Request, Any], Any]) -> None:
        self._app = app
        self._render = render
        self._routes = {route.operation_id: route for route in app.routes if isinstance(route, APIRoute) and route.operation_id}

    async def __call__(self, write: AcceptedWrite) -> WriteRequest:
        """Return the command and origin of an accepted write. Raises ``Problem`` if it breaks a rule of this release."""
        route = self._routes[write.operation]
        path = unquote(write.target)
        found = route.path_regex.match(path)
        if found is None:
            raise Problem("route-not-found", f"the operation {write.operation} is not at {path}")
        left: list[tuple[Command, Any]] = []
        endpoint: Callable[..., Awaitable[Response]] = route.endpoint
        request = Request(self._scope(route, write, path, left), _receive(write.body))
        request.scope["state"][RECORDED] = write.product_ids
        await endpoint(request, **found.groupdict())
        [(command, render)] = left
        key = IdempotencyKey(write.caller, write.key, write.request_hash, self._render(request, render))
        return WriteRequest(command, Origin(write.request_id, write.caller or None, key))

    def _scope(self, route: APIRoute, write: AcceptedWrite, path: str, left: list[Any]) -> dict[str, Any]:
        headers = [("Content-Type", "application/json"), *json.loads(write.conditions)]
        return {
            "type": "http",
            "app": self._app,
            "method": next(iter(route.methods or ())),
            "path": path,
            "raw_path": write.target.encode("ascii"),
            "query_string": b"",
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
            "state": {REQUEST_ID: write.request_id, DECODED: left},
        }


def _receive(body: bytes) -> Callable[[], Awaitable[MutableMapping[str, Any]]]:
    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
