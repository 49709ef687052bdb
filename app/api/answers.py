"""Answers that carry products: bytes as they are stored, put together without being read again."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated
from urllib.parse import quote

from fastapi import Path
from starlette.responses import Response

from app.api.body import JSON
from app.api.models import ID_RULE
from app.api.problems import MEDIA_TYPE, Fault, invalid
from app.products.commands import Change, Effect
from app.products.idempotency import Answer
from app.products.payload import product_payload
from app.products.product import ID_PATTERN, Product, is_product_id

REVALIDATE = "no-cache"
"""Whoever keeps a product must ask before using it again; else a browser's or a proxy's copy would be the past."""
KEEP_NOT = "no-store"
"""There is no tag that a copy of this could be checked with."""


ProductId = Annotated[
    str,
    Path(
        description="the product's id: 1 to 64 of A-Z a-z 0-9 . _ : -, case-sensitive",
        examples=["mug-blue"],
        json_schema_extra={"pattern": ID_PATTERN, "not": {"enum": [".", ".."]}},
    ),
]


def legal(product_id: str) -> str:
    """Give the id of the path back. Raises ``Problem``: 422, there can be no such id."""
    if not is_product_id(product_id):
        raise invalid([Fault(ID_RULE, parameter="product_id")])
    return product_id


def entity_tag(version: int) -> str:
    """Give the strong tag of a product at ``version``."""
    return f'"{version}"'


def product_of(effect: Effect) -> Product:
    """Give the product of a write that leaves one."""
    assert isinstance(effect.row, Product)  # noqa: S101 - of all writes only a deletion leaves none
    return effect.row


def render_product(effects: Sequence[Effect]) -> Answer:
    """Answer a write of one product with the product as it left it; a new one with where it is."""
    product = product_of(effects[0])
    tag = entity_tag(product.version)
    if effects[0].change is Change.CREATED:
        return Answer(HTTPStatus.CREATED, product_payload(product), tag, f"/products/{quote(product.id, safe=':')}")
    return Answer(HTTPStatus.OK, product_payload(product), tag)


def render_document(value: object) -> Answer:
    """Answer a write with what is not one product."""
    return Answer(HTTPStatus.OK, json.dumps(value, separators=(",", ":")).encode())


def response_of(answer: Answer) -> Response:
    """Give the response that carries an answer, the first time and again."""
    refused = answer.code >= HTTPStatus.BAD_REQUEST
    headers = {"Cache-Control": REVALIDATE if answer.version_tag and not refused else KEEP_NOT}
    if answer.version_tag:
        headers["ETag"] = answer.version_tag
    if answer.location:
        headers["Location"] = answer.location
    media_type = MEDIA_TYPE if refused else JSON if answer.body else None
    return Response(answer.body, answer.code, headers, media_type)


def json_list(name: str, items: Sequence[bytes], rest: str, value: object, headers: dict[str, str]) -> Response:
    """Answer ``{name: [items…], rest: value}``, the items as the bytes they are."""
    head, tail = f'{{"{name}":['.encode(), f'],"{rest}":{json.dumps(value)}}}'.encode()
    return Response(head + b",".join(items) + tail, 200, {"Cache-Control": KEEP_NOT} | headers, JSON)
