"""When a mark is made, and what lies between two marks, on a real PostgreSQL."""

import json

import psycopg
import pytest

from app.feed.errors import CursorOfAnotherHistory, CursorTooOld
from tests.feed.rig import Base

SELL = "UPDATE products SET stock = stock - 1 WHERE id = %s"


async def make(base: Base, *ids: str) -> None:
    """Create products."""
    for product_id in ids:
        await base.run("INSERT INTO products (id, name, price_cents, stock) VALUES (%s, 'Mug', 1, 9)", product_id)


async def test_an_audit_makes_a_mark_if_something_changed(base: Base) -> None:
    """The first audit of a history begins the feed. After it, an audit without changes makes no mark, one with changes does."""
    assert (await base.windows.newest()).number is None
    assert [(await base.audit()).number for _ in range(3)] == [1, 1, 1]
    await make(base, "mug")
    assert (await base.windows.newest()).number == 1
    assert [(await base.audit()).number for _ in range(2)] == [2, 2]
    await base.run("UPDATE products SET name = 'Cup' WHERE id = 'mug'")
    assert (await base.audit()).number == 3
    assert await base.told(1, 2) == []  # what a window had of a product that changed again is told by a later one
    assert await base.told(2, 3) == [("product", "mug", 2)]
    assert await base.told(1, 3) == [("product", "mug", 2), ("movement", "mug", 1)]
