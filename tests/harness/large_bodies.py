"""Requests with the largest bodies that are taken, most of them hostile, by name: path and body of a POST."""

import json

from app.api.models import MAX_BATCH, MAX_LINES

MOST_BYTES = 4 * 1024 * 1024
"""The size of the largest body."""
_WHOLE = {
    "name": "\U0001f375" * 200, "price_cents": 1, "stock": 1, "reorder_point": 1, "version": 1,
    "created_at": "2026-01-31T09:05:00.000000Z", "updated_at": "2026-01-31T09:05:00.000000Z",
}  # fmt: skip


def _fill(before: bytes, unit: bytes, after: bytes) -> bytes:
    return before + unit * ((MOST_BYTES - len(before) - len(after)) // len(unit)) + after


def _members(count: int) -> bytes:
    return b"{" + b",".join(b'"%06d":1' % number for number in range(count)) + b"}"


def _rows(name: bytes, row: bytes, count: int) -> bytes:
    return b'{"%b":[' % name + b",".join([row] * count) + (b'],"reason":"sale"}' if name == b"lines" else b"]}")


ADJUSTMENTS, _BATCH, _ONE = "/stock/adjustments", "/products/batch", "/products"
LARGE_BODIES = {
    "members": (ADJUSTMENTS, b'{"reason":"sale","lines":[%b]}' % _members(MOST_BYTES // 11 - 10)),
    "lists": (ADJUSTMENTS, _fill(b'{"lines":[', b"[],", b"[]]}")),
    "objects": (_BATCH, _fill(b'{"items":[', b"{},", b"{}]}")),
    "numbers": (_ONE, _fill(b"[", b"1,", b"1]")),
    "deep lists": (_ONE, _fill(b"", b"[", b"")),
    "deep objects": (_ONE, _fill(b"", b'{"a":', b"")),
    "small items": (_BATCH, b'{"items":[' + b"1," * 400_000 + b"1]}"),
    "long number": (_ONE, _fill(b'{"price_cents":', b"1", b"}")),
    "long fraction": (_ONE, _fill(b'{"price_cents":0.', b"1", b"}")),
    "string": (_ONE, _fill(b'{"name":"', b"a", b'","price_cents":1}')),
    "escapes": (_ONE, _fill(b'{"name":"', b"\\n", b'","price_cents":1}')),
    "backslashes": (_ONE, _fill(b'{"name":",,,', b"\\\\", b'","price_cents":1}')),
    "marks in a string": (_ONE, _fill(b'{"name":"', b",", b'","price_cents":1}')),
    "quotes": (_ONE, _fill(b'{"name":",,,', b'"', b'","price_cents":1}')),
    "spaces": (_ONE, _fill(b"", b" ", b"{}")),
    "lines of the wrong kind": (_ONE, _fill(b"", b"\n", b"{")),
    "a wide line": (ADJUSTMENTS, b'{"reason":"sale","lines":[%b]}' % _members(16_000)),
    "many wide lines": (ADJUSTMENTS, _rows(b"lines", _members(60), 250)),
    "lines that are wrong": (ADJUSTMENTS, _rows(b"lines", b'{"a":1,"b":2,"c":3}', MAX_LINES)),
    "items that are wide": (_BATCH, _rows(b"items", _members(60), 260)),
    "items that are wrong": (_BATCH, _rows(b"items", _members(14), MAX_BATCH)),
    "items of a thousand faults": (_BATCH, _rows(b"items", _members(350), MAX_BATCH)),
    "whole products": (_BATCH, json.dumps({"items": [_WHOLE | {"id": f"{i:064}"} for i in range(MAX_BATCH)]}).encode()),
}
