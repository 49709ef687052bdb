"""Answers that carry products: bytes as they are stored, put together without being read again."""

import json
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, Path
from starlette.responses import Response

from app.api.body import JSON
from app.api.models import ID_RULE
from app.api.problems import Fault, invalid
from app.products.payload import product_payload
from app.products.product import ID_PATTERN, Product, is_product_id

REVALIDATE = "no-cache"
"""Whoever keeps a product must ask before using it again; else a browser's or a proxy's copy would be the past."""
KEEP_NOT = "no-store"
"""There is no tag that a copy of this could be checked with."""


async def _product_id(
    product_id: Annotated[
        str,
        Path(
            description="the product's id: 1 to 64 of A-Z a-z 0-9 . _ : -, case-sensitive",
            examples=["mug-blue"],
            json_schema_extra={"pattern": ID_PATTERN, "not": {"enum": [".", ".."]}},
        ),
    ],
) -> str:
    if not is_product_id(product_id):
        raise invalid([Fault(ID_RULE, parameter="product_id")])
    return product_id


ProductId = Annotated[str, Depends(_product_id)]


def entity_tag(version: int) -> str:
    """Give the strong tag of a product at ``version``."""
    return f'"{version}"'


def written(product: Product, *, created: bool = False) -> Response:
    """Answer a write with the product as it left it; a new one with where it is."""
    headers = {"ETag": entity_tag(product.version), "Cache-Control": REVALIDATE}
    if created:
        headers["Location"] = f"/products/{quote(product.id, safe=':')}"
    return Response(product_payload(product), 201 if created else 200, headers, JSON)


def joined(name: str, items: Sequence[bytes], rest: str, value: object, headers: dict[str, str]) -> Response:
    """Answer ``{name: [items…], rest: value}``, the items as the bytes they are."""
    head, tail = f'{{"{name}":['.encode(), f'],"{rest}":{json.dumps(value)}}}'.encode()
    return Response(head + b",".join(items) + tail, 200, {"Cache-Control": KEEP_NOT} | headers, JSON)
