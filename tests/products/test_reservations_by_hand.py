"""Reservations that were not made by the service: a row inserted by hand may have any text as its id."""

import pytest

from app.products.reservation import RequestedLine
from app.products.reservation_commands import Reserve
from app.settings import Settings
from tests.products.instances import LATER, Instance, by_hand

MADE = """
WITH r AS (INSERT INTO reservations (id, expires_at, created_at, updated_at)
    VALUES (%(id)s, now() + interval '1 minute', now(), now()) RETURNING id),
l AS (INSERT INTO reservation_lines (reservation_id, line, product_id, quantity, expires_at)
    SELECT id, 0, 'a', 3, now() + interval '1 minute' FROM r)
UPDATE products SET reserved = reserved + 3, version = version + 1 WHERE id = 'a'
"""
OPEN = "SELECT sum(open)::int FROM reservation_lines WHERE reservation_id = %s"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"reservation_tidy_ms": 0})


@pytest.mark.parametrize("made", ["legacy-1", 'a"b', "a\\b", "a\nb", 'x","id":"legacy-1'])
async def test_an_ended_hold_is_given_back_whatever_its_id(larder: Instance, settings: Settings, made: str) -> None:
    """By whoever needs the units, so that they are not given back twice."""
    await larder.stock("a")
    async with by_hand(settings) as hand:
        await hand.execute(MADE, {"id": made})
        await hand.execute(LATER)
    await larder.products.reserve(Reserve([RequestedLine("a", 10)], 60))
    async with by_hand(settings) as hand:
        assert await (await hand.execute(OPEN, (made,))).fetchone() == (0,)
