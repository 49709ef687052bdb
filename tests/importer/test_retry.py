"""Waits between tries, with chance and time given by the test."""

import asyncio
from datetime import UTC, datetime

import pytest

from app.importer.retry import RetryPolicy, parse_retry_after
from app.importer.stopping import StopFlag


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_waits_double_up_to_the_limit(chance: float) -> None:
    """Never less than half of the growing wait, never more than the whole."""
    policy = RetryPolicy(first_wait_ms=100, longest_wait_ms=1_000, random=lambda: chance)
    waits = [policy.wait_ms(attempt, None) for attempt in range(1, 8)]
    share = 0.5 + chance / 2
    assert waits == [int(full * share) for full in (100, 200, 400, 800, 1_000, 1_000, 1_000)]


def test_retry_after_is_a_floor_with_a_limit() -> None:
    """A request is not retried before Retry-After, which is capped."""
    policy = RetryPolicy(first_wait_ms=100, longest_retry_after_ms=60_000, random=lambda: 1.0)
    assert policy.wait_ms(1, 2_000) == 2_100
    assert policy.wait_ms(1, 0) == 100
    assert policy.wait_ms(1, 3_600_000) == 60_100


@pytest.mark.parametrize(
    ("header", "expected_ms"),
    [
        (None, None),
        ("0", 0),
        (" 7 ", 7_000),
        ("9" * 50, 999_999_999_000),
        ("Mon, 23 Nov 2026 07:00:05 GMT", 5_000),
        ("Mon, 23 Nov 2026 06:00:00 GMT", 0),
        ("Mon, 23 Nov 2026 07:00:05 -0000", 5_000),
        ("soon", None),
        ("-3", None),
        ("1.5", None),
        ("", None),
    ],
)
def test_retry_after_header(header: str | None, expected_ms: int | None) -> None:
    """The header has seconds or a date; anything else is ignored."""
    assert parse_retry_after(header, datetime(2026, 11, 23, 7, tzinfo=UTC)) == expected_ms


async def test_stop_ends_a_wait_at_once() -> None:
    """A wait of an hour does not hold up Ctrl-C."""
    stop = StopFlag()
    waiting = asyncio.create_task(stop.wait_ms(3_600_000))
    await asyncio.sleep(0)
    stop.set()
    async with asyncio.timeout(5):
        assert await waiting is False
    assert await StopFlag().wait_ms(1) is True
