"""Responses that carry products, and the headers that say how a read was served (``Cache-Status``, RFC 9211)."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated
from urllib.parse import quote

from fastapi import Path
from starlette.responses import Response

from app.api.bodies import JSON
from app.api.models import ID_RULE, ID_SCHEMA
from app.api.problems import MEDIA_TYPE, FieldError, invalid, no_reservation
from app.api.query_parts import NextPage
from app.cache.write_through import Read, Status
from app.products.commands import Change, Effect
from app.products.idempotency import Answer
from app.products.payload import product_payload
from app.products.product import Product, is_product_id
from app.products.reservation import is_reservation_id

NO_CACHE = "no-cache"
"""Cache-Control of answers with an entity tag: a browser or proxy may keep them, but must revalidate before each use."""
NO_STORE = "no-store"
"""Cache-Control of answers without an entity tag, because a copy could not be revalidated."""

_MAY_KEEP = (b"cache-control", NO_CACHE.encode())
_MAY_NOT_KEEP = (b"cache-control", NO_STORE.encode())
_JSON_TYPE = (b"content-type", JSON.encode())
_PROBLEM_TYPE = (b"content-type", MEDIA_TYPE.encode())
_BODILESS = frozenset({204, 304})
_STATUS = {
    Status.HIT: "larder; hit",
    Status.MISS: "larder; fwd=miss",
    Status.STORED: "larder; fwd=miss; stored",
    Status.BYPASS: "larder; fwd=bypass",
    Status.REFRESHED: "larder; fwd=request",
    Status.REFRESHED_STORED: "larder; fwd=request; stored",
    Status.UNVERIFIED: "larder; hit; detail=unverified",
}


BYPASSED = _STATUS[Status.BYPASS]
"""Cache-Status of what is always read from PostgreSQL."""
ProductId = Annotated[
    str,
    Path(
        description="the product's id: 1 to 64 of A-Z a-z 0-9 . _ : -, case-sensitive",
        json_schema_extra={"pattern": ID_SCHEMA},
    ),
]


def checked_id(product_id: str) -> str:
    """Return the id of the path. Raises ``Problem`` (422) if it is not a legal id."""
    if not is_product_id(product_id):
        raise invalid([FieldError(ID_RULE, parameter="product_id")])
    return product_id


def checked_reservation_id(reservation_id: str) -> str:
    """Return the id of the path. Raises ``Problem`` (404) if no reservation can have it."""
    if not is_reservation_id(reservation_id):
        raise no_reservation(reservation_id)
    return reservation_id


def entity_tag(version: int) -> str:
    """Return the strong entity tag of a product at ``version``."""
    return f'"{version}"'


def product_of(effect: Effect) -> Product:
    """Return the product after a write."""
    assert isinstance(effect.row, Product)  # noqa: S101 - only a deletion leaves no product
    return effect.row


def render_product(effects: Sequence[Effect]) -> Answer:
    """Return the answer to a write with the product after it, and with the location of a new product."""
    product = product_of(effects[0])
    tag = entity_tag(product.version)
    if effects[0].change is Change.CREATED:
        return Answer(201, product_payload(product), tag, f"/products/{quote(product.id, safe=':')}")
    return Answer(200, product_payload(product), tag)


def render_document(value: object) -> Answer:
    """Return the answer to a write with a JSON value."""
    return Answer(200, json.dumps(value, separators=(",", ":")).encode())


class AnswerResponse(Response):
    """The response that carries an answer. Its headers are made as bytes: a dictionary of texts would be encoded again."""

    def __init__(self, answer: Answer) -> None:
        refused = answer.code >= HTTPStatus.BAD_REQUEST
        self.status_code = answer.code
        self.body = answer.body
        self.background = None
        self.raw_headers = headers = [_MAY_KEEP if answer.version_tag and not refused else _MAY_NOT_KEEP]
        if answer.version_tag:
            headers.append((b"etag", answer.version_tag.encode("latin-1")))
        if answer.location:
            headers.append((b"location", answer.location.encode("latin-1")))
        if answer.code not in _BODILESS:
            headers.append((b"content-length", b"%d" % len(answer.body)))
        if refused:
            headers.append(_PROBLEM_TYPE)
        elif answer.body:
            headers.append(_JSON_TYPE)


def json_list(name: str, items: Sequence[bytes], rest: str, value: object, headers: dict[str, str]) -> Response:
    """Return the response ``{name: [items…], rest: value}``. The items are JSON already."""
    head, tail = f'{{"{name}":['.encode(), f'],"{rest}":{json.dumps(value)}}}'.encode()
    return Response(head + b",".join(items) + tail, 200, {"Cache-Control": NO_STORE} | headers, JSON)


def page_response(items: Sequence[bytes], following: NextPage | None) -> Response:
    """Return the response with a page of a list, which was read from PostgreSQL."""
    headers = {"Cache-Status": BYPASSED}
    if following is not None:
        headers["Link"] = following.link
    return json_list("items", items, "next", following.cursor if following else None, headers)


def cache_status(read: Read) -> str:
    """Return the ``Cache-Status`` of one read."""
    if read.status is Status.BYPASS and read.detail:
        return f"larder; fwd=bypass; detail={read.detail}"
    return _STATUS[read.status]


def cache_status_of_many(reads: Sequence[Read]) -> str:
    """Return the ``Cache-Status`` of several reads, which is that of the least favourable one; unverified is the worst."""
    statuses = [read.status for read in reads]
    kinds = set(statuses)
    hits = statuses.count(Status.HIT)
    if kinds <= {Status.HIT}:
        return "larder; hit"
    if Status.UNVERIFIED in kinds:
        return (
            "larder; hit; detail=unverified"
            if kinds <= {Status.HIT, Status.UNVERIFIED}
            else "larder; fwd=miss; detail=unverified"
        )
    if Status.BYPASS in kinds:
        details = {read.detail for read in reads if read.status is Status.BYPASS}
        return "larder; fwd=bypass" + (f"; detail={detail}" if len(details) == 1 and (detail := details.pop()) else "")
    if kinds <= {Status.REFRESHED, Status.REFRESHED_STORED}:
        return _STATUS[Status.REFRESHED if Status.REFRESHED in kinds else Status.REFRESHED_STORED]
    return f'larder; fwd=miss; detail="hits={hits} misses={len(reads) - hits}"'
