"""The examples of the API's description."""

PRODUCT_EXAMPLE: dict[str, object] = {
    "id": "mug-blue",
    "name": "Blue mug",
    "price_cents": 1299,
    "stock": 40,
    "reorder_point": 10,
    "version": 7,
    "created_at": "2026-01-31T09:05:00.000000Z",
    "updated_at": "2026-01-31T17:40:12.345678Z",
    "reserved": 2,
    "available": 38,
}
BATCH_EXAMPLE: dict[str, object] = {
    "items": [
        {"id": "mug-blue", "name": "Blue mug", "price_cents": 1299, "reorder_point": 10},
        {"id": "mug-white", "name": "White mug", "price_cents": 1199, "stock": 55},
    ]
}
MOVEMENT_EXAMPLE: dict[str, object] = {
    "id": "mug-blue@7.0",
    "product_id": "mug-blue",
    "version": 7,
    "line": 0,
    "delta": -3,
    "stock_after": 40,
    "reason": "sale",
    "reference": "order-17",
    "created_at": "2026-01-31T17:40:12.345678Z",
    "reserved_delta": 0,
    "reserved_after": 2,
    "reservation_id": None,
}
RESERVATION_EXAMPLE: dict[str, object] = {
    "id": "019c133e00007f3a9b0c4d5e6f708192",
    "reference": "cart-9",
    "status": "held",
    "lines": [{"line": 0, "product_id": "mug-blue", "quantity": 2, "committed": 0, "released": 0, "expired": 0}],
    "expires_at": "2026-01-31T17:50:12.345678Z",
    "version": 1,
    "created_at": "2026-01-31T17:40:12.345678Z",
    "updated_at": "2026-01-31T17:40:12.345678Z",
}
_CHANGED: dict[str, object] = {**RESERVATION_EXAMPLE, "version": 2, "updated_at": "2026-01-31T17:41:30.123456Z"}
EXTENDED_EXAMPLE: dict[str, object] = {**_CHANGED, "expires_at": "2026-01-31T17:51:30.123456Z"}


def closed_example(status: str) -> dict[str, object]:
    """Return the reservation of the other examples when all its units have been committed or released."""
    lines = [{"line": 0, "product_id": "mug-blue", "quantity": 2, "committed": 0, "released": 0, "expired": 0, status: 2}]
    return {**_CHANGED, "status": status, "lines": lines}
