"""A product as bytes: the body of a GET, and the payload of its slot in the cache.

The payload has a schema, whose number is in the database. A release that adds a member raises ``SCHEMA``. It goes on writing
payloads of the schema that the database names until ``larder migrate --finish`` raises that number, too (docs/OPERATIONS.md).
"""

import json.encoder
from datetime import UTC, datetime
from functools import lru_cache

from app.products.product import Movement, Product
from app.products.reservation import Reservation

SCHEMA = 3
"""The newest schema of the payload that this release knows. The database refuses a release whose number is lower."""

_text = json.encoder.encode_basestring


@lru_cache(maxsize=4_000)
def timestamp(moment: datetime) -> str:
    """Return a moment in UTC with six digits of fraction, as in ``2026-01-31T09:05:00.000000Z``.

    All rows that a transaction changes have one moment, and a product keeps that of its creation. Moments are in UTC, so equal
    ones have one text.
    """
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"


@lru_cache(maxsize=1_000)
def product_payload(product: Product) -> bytes:
    """Return a product as compact JSON in UTF-8. The bytes are the same for the same row on every instance.

    The text is formatted by hand and cached, because a write publishes the payload, returns it, and stores it for retries. An
    id has no character that JSON would escape.
    """
    return (
        f'{{"id":"{product.id}","name":{_text(product.name)},"price_cents":{product.price_cents},"stock":{product.stock},'
        f'"reorder_point":{product.reorder_point},"version":{product.version},'
        f'"created_at":"{timestamp(product.created_at)}","updated_at":"{timestamp(product.updated_at)}"{_held(product)}}}'
    ).encode()


def _held(product: Product) -> str:
    if product.reserved is None:
        return ""
    return f',"reserved":{product.reserved},"available":{max(0, product.free)}'


def reservation_payload(reservation: Reservation) -> bytes:
    """Return a reservation as compact JSON in UTF-8, formatted by hand as that of a product."""
    lines = ",".join(
        [
            f'{{"line":{number},"product_id":{_text(line.product_id)},"quantity":{line.quantity},"committed":{line.committed},'
            f'"released":{line.released},"expired":{line.expired}}}'
            for number, line in enumerate(reservation.lines)
        ]
    )
    reference = "null" if reservation.reference is None else _text(reservation.reference)
    return (
        f'{{"id":{_text(reservation.id)},"reference":{reference},"status":"{reservation.status}","lines":[{lines}],'
        f'"expires_at":"{timestamp(reservation.expires_at)}","version":{reservation.version},'
        f'"created_at":"{timestamp(reservation.created_at)}","updated_at":"{timestamp(reservation.updated_at)}"}}'
    ).encode()


def movement_fields(movement: Movement) -> dict[str, object]:
    """Return an entry of the ledger as the members of its JSON object."""
    return {
        "id": movement.id,
        "product_id": movement.product_id,
        "version": movement.version,
        "line": movement.line,
        "delta": movement.delta,
        "stock_after": movement.stock_after,
        "reason": movement.reason.value,
        "reference": movement.reference,
        "created_at": timestamp(movement.created_at),
        "reserved_delta": movement.reserved_delta,
        "reserved_after": movement.reserved_after,
        "reservation_id": movement.reservation_id,
    }
