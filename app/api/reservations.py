"""Endpoints of reservations: hold units, extend, commit, release, read."""

from typing import Annotated

from fastapi import Path, Request
from starlette.responses import Response

from app.access.keys import Scope
from app.api.bodies import JSON
from app.api.conditions import read_conditions
from app.api.context import check_pair, products_of
from app.api.examples import EXTENDED_EXAMPLE, closed_example
from app.api.list_queries import reservation_query
from app.api.openapi import (
    RESERVATION_MADE,
    RESERVATION_NOT_MODIFIED,
    RESERVATION_READ,
    RESERVATIONS,
    WRITE_PROBLEMS,
    answers,
    changed_reservation,
    reservation_body,
)
from app.api.parameters import RESERVATION_HEADERS, RESERVATION_PARAMETERS
from app.api.problems import reservation_changed
from app.api.reservation_models import CommitRequest, Extension, NewReservation, ReleaseRequest
from app.api.responses import BYPASSED, NO_CACHE, checked_reservation_id, entity_tag, page_response
from app.api.routes import BATCH_COST, LIST_COST, request_router, requires
from app.api.writing import reservation_request
from app.products.idempotency import Answer
from app.products.payload import reservation_payload
from app.products.reservation import Reservation
from app.products.reservation_commands import Commit, Extend, Release, Reserve

router = request_router("reservations")
_READ_PROBLEMS = ("invalid-request", "overloaded", "database-unavailable", "not-enabled", "internal-error")
_CHANGE_PROBLEMS = (*WRITE_PROBLEMS, "reservation-not-found", "precondition-failed", "not-enabled")
_NEW_PROBLEMS = (
    "several-pairs",
    "product-not-found",
    "reservation-not-found",
    "insufficient-stock",
    "reservation-closed",
    "not-enabled",
)
ReservationId = Annotated[str, Path(description="the reservation's id")]


@router.post(
    "/reservations",
    operation_id="createReservation",
    summary="Hold units for a while: all lines or none",
    description=(
        "The units are still in stock, but only a commit of this reservation takes them. At its end whoever needs them gets"
        " them. A product may have several lines: their sum is checked. With `replaces`, another reservation is released in the"
        " same decision, so that a cart can change without losing what it holds."
    ),
    status_code=201,
    response_class=Response,
    responses=answers({201: RESERVATION_MADE}, (*WRITE_PROBLEMS, *_NEW_PROBLEMS)),
    openapi_extra=reservation_body(
        "NewReservation",
        {"lines": [{"product_id": "mug-blue", "quantity": 2}], "expires_in_s": 600, "reference": "cart-9"},
        named=False,
    ),
)
@requires(Scope.STOCK_RESERVE, BATCH_COST)
async def create_reservation(request: Request) -> Response:
    """Hold the units."""
    sent = await reservation_request(request, NewReservation)
    command = Reserve(sent.body.wanted(), sent.body.expires_in_s, sent.body.reference, sent.body.replaces)
    return await sent.answer_reservation(command, _render_new)


@router.get(
    "/reservations/{reservation_id}",
    operation_id="getReservation",
    summary="Read a reservation",
    description="From PostgreSQL. One that is `held` with an `expires_at` in the past promises nothing any more.",
    response_class=Response,
    responses=answers(
        {200: RESERVATION_READ, 304: RESERVATION_NOT_MODIFIED},
        ("invalid-header", "reservation-not-found", "precondition-failed", *_READ_PROBLEMS),
    ),
    openapi_extra={"parameters": RESERVATION_HEADERS},
)
@requires(Scope.STOCK_RESERVE)
async def get_reservation(request: Request, reservation_id: ReservationId) -> Response:
    """Return the reservation, 304, or 404."""
    conditions = read_conditions(request)
    reservation = await products_of(request).reservation(checked_reservation_id(reservation_id))
    version = reservation.version
    if conditions.if_match is not None and not conditions.if_match.matches_strongly(version):
        raise reservation_changed(reservation_id, version)
    headers = {"Cache-Status": BYPASSED, "ETag": entity_tag(version), "Cache-Control": NO_CACHE}
    if conditions.if_none_match is not None and conditions.if_none_match.matches_weakly(version):
        return Response(status_code=304, headers=headers)
    return Response(reservation_payload(reservation), 200, headers, JSON)


@router.post(
    "/reservations/{reservation_id}/extend",
    operation_id="extendReservation",
    summary="Let a reservation end later",
    description="It ends `expires_in_s` from now, if that is later than before; otherwise it stays as it is.",
    response_class=Response,
    responses=answers(
        {200: changed_reservation(EXTENDED_EXAMPLE)}, (*_CHANGE_PROBLEMS, "reservation-expired", "reservation-closed")
    ),
    openapi_extra=reservation_body("Extension", {"expires_in_s": 600}),
)
@requires(Scope.STOCK_RESERVE)
async def extend_reservation(request: Request, reservation_id: ReservationId) -> Response:
    """Move the end."""
    sent = await reservation_request(request, Extension, reservation_id)
    return await sent.answer_reservation(Extend(reservation_id, sent.body.expires_in_s, sent.condition), _render)


@router.post(
    "/reservations/{reservation_id}/commit",
    operation_id="commitReservation",
    summary="Sell what a reservation holds, all or in part",
    description=(
        "With `{}` as the body all open units are sold. With `lines`, `rest` says whether the others stay held until"
        " `expires_at` or are given back. If a count has found units missing, commits are served in the order in which they"
        " come."
    ),
    response_class=Response,
    responses=answers(
        {200: changed_reservation(closed_example("committed"))},
        (*_CHANGE_PROBLEMS, "insufficient-stock", "reservation-expired", "reservation-closed", "not-held"),
    ),
    openapi_extra=reservation_body("CommitRequest", {"reference": "order-17"}),
)
@requires(Scope.STOCK_RESERVE)
async def commit_reservation(request: Request, reservation_id: ReservationId) -> Response:
    """Sell the units."""
    sent = await reservation_request(request, CommitRequest, reservation_id)
    parts, rest = sent.body.parts(), sent.body.remaining()
    return await sent.answer_reservation(Commit(reservation_id, parts, rest, sent.body.reference, sent.condition), _render)


@router.post(
    "/reservations/{reservation_id}/release",
    operation_id="releaseReservation",
    summary="Give back what a reservation holds, all or in part",
    description="With `{}` as the body all open units are given back. One that was released or has expired stays as it is.",
    response_class=Response,
    responses=answers(
        {200: changed_reservation(closed_example("released"))}, (*_CHANGE_PROBLEMS, "reservation-closed", "not-held")
    ),
    openapi_extra=reservation_body("ReleaseRequest", {"lines": [{"line": 0, "quantity": 1}]}),
)
@requires(Scope.STOCK_RESERVE)
async def release_reservation(request: Request, reservation_id: ReservationId) -> Response:
    """Give the units back."""
    sent = await reservation_request(request, ReleaseRequest, reservation_id)
    return await sent.answer_reservation(Release(reservation_id, sent.body.parts(), sent.condition), _render)


@router.get(
    "/reservations",
    operation_id="listReservations",
    summary="List the reservations with a reference, or those that hold units of a product",
    description="Newest first, from PostgreSQL.",
    response_class=Response,
    responses=answers({200: RESERVATIONS}, _READ_PROBLEMS),
    openapi_extra={"parameters": RESERVATION_PARAMETERS},
)
@requires(Scope.STOCK_RESERVE, LIST_COST)
async def list_reservations(request: Request) -> Response:
    """Return a page of reservations."""
    query = reservation_query(request)
    check_pair(request, (query.owner,) if query.of_product else ())
    page = await products_of(request).reservations(
        query.owner, of_product=query.of_product, status=query.status, limit=query.limit, after=query.after
    )
    return page_response(
        [reservation_payload(reservation) for reservation in page.items], query.next_page(page.next) if page.next else None
    )


def _render(reservation: Reservation) -> Answer:
    return Answer(200, reservation_payload(reservation), entity_tag(reservation.version))


def _render_new(reservation: Reservation) -> Answer:
    tag = entity_tag(reservation.version)
    return Answer(201, reservation_payload(reservation), tag, f"/reservations/{reservation.id}")
