"""A write over HTTP: its request, checked in a fixed order, and its answer.

The first of these faults is answered: the body is too large (413), not declared as JSON (415), or not JSON (400); a
precondition or the idempotency key is malformed (400); the id in the path is not legal, there is a query, or the body breaks a
rule (422); products of the body belong to another pair (421, 422).
Refusals by the service come after all of these.

The answer to a request with an ``Idempotency-Key`` is rendered once, within the transaction that stores it. A repetition of the
request gets the same bytes.
"""

import hashlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from fastapi import Request
from starlette.responses import Response

from app.access.key_ring import Caller
from app.api.accepting import Preference, accept, check_key, preference_of, written_down
from app.api.admission import ANYBODY
from app.api.bodies import JSON, Body, Model, check, json_body
from app.api.conditions import idempotency_key, if_match_condition, named_bucket, refuse_conditions, write_condition
from app.api.context import Larder, caller_of, check_pair, larder_of
from app.api.fields import fields_in
from app.api.problems import problem_of
from app.api.query_parts import refuse_parameters
from app.api.request_state import CALLER, DECODED, RECORDED, REQUEST_ID
from app.api.responses import AnswerResponse, checked_id, checked_reservation_id
from app.products import commands
from app.products.accepted import MOST_BODY_BYTES
from app.products.commands import Change, Command, Effect
from app.products.errors import Refused, SeveralPairs
from app.products.idempotency import Answer, IdempotencyKey, Origin, Replayed
from app.products.pair import new_id
from app.products.product import ALWAYS, Precondition
from app.products.reservation import Reservation
from app.products.reservation_commands import ReservationCommand

_CONDITIONAL = frozenset({b"if-match", b"if-none-match", b"idempotency-key", b"prefer", b"larder-bucket"})
"""Headers that change what a write does or when it is answered."""
_STORED_REFUSALS = frozenset({404, 409, 412})
"""Refusals that depend on the product at that moment. After any other, a client can send the same key again."""
Render = Callable[[Sequence[Effect]], Answer]
Result = TypeVar("Result", Sequence[Effect], Reservation)


@dataclass(slots=True, eq=False)
class IncomingWrite(Generic[Body]):
    """A write that has passed all checks that do not need the product.

    It is not frozen, because frozen instances take longer to make.
    """

    request: Request
    larder: Larder
    """The running service."""
    content: bytes
    body: Body
    """The parsed and checked ``content``."""
    condition: Precondition
    key: str | None
    preference: Preference | None = None
    """Whether the client accepts a 202, and this service gives one."""
    bucket: int | None = None
    """The bucket that a request about a collection names."""

    def made_ids(self, named: Collection[str]) -> Callable[[], str]:
        """Return what makes the ids of products for which the request names none; ``named`` are the ids that it names.

        A request that was accepted before gets the ids that were made then, in their order.
        """
        make = partial(new_id, self.larder.pair, self.bucket)
        recorded = iter([one for one in self.request.scope["state"].get(RECORDED, ()) if one not in named])
        return lambda: next(recorded, None) or make()

    async def answer(self, command: Command, render: Render) -> Response:
        """Carry out the command and return its answer, or the stored answer if the request was done before.

        If the request is only decoded (``Decoder``), leave the command in its state and carry nothing out.

        Raises as ``Products.write``.
        """
        state = self.request.scope["state"]
        if DECODED in state:
            state[DECODED].append((command, render))
            return Response()
        return await self._answer(partial(self.larder.products.write, command), render, command)

    async def answer_reservation(self, command: ReservationCommand, render: Callable[[Reservation], Answer]) -> Response:
        """Carry out a command on a reservation and return its answer, as ``answer`` does."""
        return await self._answer(partial(self.larder.products.reserve, command), render, command)

    async def _answer(
        self, write: Callable[[Origin], Awaitable[Result]], render: Callable[[Result], Answer], command: Command
    ) -> Response:
        state = self.request.scope["state"]
        if self.larder.pair is not None:
            self._check_pair(command)
        request_id = state[REQUEST_ID]
        sender: Caller = state[CALLER]
        caller = sender.name
        if self.key is None:
            result = await write(Origin(request_id, caller or None))
            self._note(sender, result)
            return AnswerResponse(render(result))
        rendering = StoredRendering(self.request, render)
        key = IdempotencyKey(caller, self.key, _request_hash(self.request, self.content), rendering)
        if self.preference is not None and (response := await self._accepted(key, command, self.preference)) is not None:
            return response
        try:
            result = await write(Origin(request_id, caller or None, key))
        except Refused:
            self._note(sender, ())  # the refusal may be kept under the key
            raise
        except Replayed as replayed:
            response = AnswerResponse(replayed.answer)
            response.headers["Idempotent-Replayed"] = "true"
            return response
        self._note(sender, result)
        return AnswerResponse(rendering.answer)

    def _check_pair(self, command: Command) -> None:
        try:
            check_pair(self.request, (*command.keys, *command.reservation_ids))
        except SeveralPairs:
            if self.key is None:
                raise
            # It may have been answered before one of its buckets moved. The transaction looks for that, or refuses it.

    async def _accepted(self, key: IdempotencyKey, command: Command, preference: Preference) -> Response | None:
        """Return the 202; ``None`` if the request is too large for it or was decided before, and is answered directly."""
        larder = self.larder
        if larder.accepted is None or len(self.content) > MOST_BODY_BYTES:
            return None
        response = await accept(larder.accepted, written_down(self.request, key, command, self.content), preference)
        if response is not None:
            # What it creates is known only later. The quota is charged with what it may create.
            may_create = isinstance(command, commands.Create | commands.Put | commands.Upsert)
            request = f"{self.request.scope['method']} {self.request.scope['path']}"
            larder.admission.wrote(caller_of(self.request), request, keys=1, products=len(command.keys) if may_create else 0)
        return response

    def _note(self, sender: Caller, result: Sequence[Effect] | Reservation) -> None:
        if sender is ANYBODY:
            return  # nobody's quota is charged
        scope = self.request.scope
        created = 0 if isinstance(result, Reservation) else sum(effect.change is Change.CREATED for effect in result)
        self.larder.admission.wrote(sender, f"{scope['method']} {scope['path']}", keys=self.key is not None, products=created)


class StoredRendering:
    """Renders the answer to store. ``answer`` is the latest one, because a repeated attempt renders it again.

    Args:
        request: the request to answer.
        render: renders what was done.
        every: whether every refusal is stored. Otherwise only those are that depend on the product at that moment.
    """

    def __init__(self, request: Request, render: Callable[[Any], Answer], *, every: bool = False) -> None:
        self._request = request
        self._render = render
        self._every = every
        self.answer: Answer

    def __call__(self, result: Sequence[Effect] | Reservation | Refused) -> Answer | None:
        """Return the answer; ``None`` for a refusal that is not stored."""
        if isinstance(result, Refused):
            return self._refusal(result)
        self.answer = self._render(result)
        return self.answer

    def _refusal(self, refusal: Refused) -> Answer | None:
        problem = problem_of(refusal)
        if problem.kind.status not in _STORED_REFUSALS and not self._every:
            return None
        response = problem.response(self._request.scope)
        return Answer(response.status_code, bytes(response.body), response.headers.get("ETag"))


async def write_request(
    request: Request, model: type[Model], product_id: str | None = None, media_types: Sequence[str] = (JSON,)
) -> IncomingWrite[Model]:
    """Read a write of products that has a body. Without a ``product_id`` it must not have preconditions.

    Raises:
        Problem: 413, 415, 400 or 422, in the order of the module's docstring.
        AccessError: the key was revoked while the body arrived.
    """
    sent = await json_body(request, media_types)
    larder = larder_of(request)
    if DECODED not in request.scope["state"]:
        larder.admission.check_again(request.scope["headers"])
    head = _checked_head(request, product_id)
    return IncomingWrite(request, larder, sent.content, check(model, sent.value), *head)


async def reservation_request(request: Request, model: type[Model], reservation_id: str | None = None) -> IncomingWrite[Model]:
    """Read a write of reservations. One that names a reservation may have the precondition If-Match.

    It is never accepted for later: a 202 would hold nothing.

    Raises:
        Problem: as ``write_request``; 404 for an id that no reservation can have.
    """
    sent = await json_body(request, (JSON,))
    larder = larder_of(request)
    larder.admission.check_again(request.scope["headers"])
    condition, key, bucket = ALWAYS, None, None
    if not _CONDITIONAL.isdisjoint(fields_in(request.scope)):
        condition = refuse_conditions(request) if reservation_id is None else if_match_condition(request)
        key = idempotency_key(request)
        bucket = named_bucket(request.scope["headers"]) if reservation_id is None else None
    refuse_parameters(request)
    checked = check(model, sent.value)
    if reservation_id is not None:
        checked_reservation_id(reservation_id)
    return IncomingWrite(request, larder, sent.content, checked, condition, key, None, bucket)


def bodiless_request(request: Request, product_id: str) -> IncomingWrite[None]:
    """Read a write without a body.

    Raises:
        Problem: 400 or 422, as above.
    """
    return IncomingWrite(request, larder_of(request), b"", None, *_checked_head(request, product_id))


def _checked_head(request: Request, product_id: str | None) -> tuple[Precondition, str | None, Preference | None, int | None]:
    if product_id is not None and _CONDITIONAL.isdisjoint(fields_in(request.scope)):
        checked_id(product_id)
        refuse_parameters(request)
        return ALWAYS, None, None, None
    condition = refuse_conditions(request) if product_id is None else write_condition(request)
    key = idempotency_key(request)
    preference = None if larder_of(request).accepted is None else preference_of(request)
    bucket = named_bucket(request.scope["headers"]) if product_id is None else None
    if preference is not None:
        check_key(key)
    if product_id is not None:
        checked_id(product_id)
    refuse_parameters(request)
    return condition, key, preference, bucket


def _request_hash(request: Request, content: bytes) -> bytes:
    """Return the hash of method, path, query, preconditions and body. Each part is preceded by its length."""
    scope = request.scope
    conditions = [",".join(request.headers.getlist(name)).encode("latin-1") for name in ("If-Match", "If-None-Match")]
    digest = hashlib.sha256()
    for part in (scope["method"].encode(), scope["raw_path"], scope["query_string"], *conditions, content):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
