"""The token bucket of a client."""

import pytest

from app.access.errors import RateLimited
from app.access.rates import BURST_S, LARGEST_COST, NO_LIMIT, Client


def test_rate_is_kept_over_any_time() -> None:
    """In any stretch a client gets at most its burst and what flowed in meanwhile."""
    client = Client("till", 100.0)
    now, admitted = 0.0, 0
    for _ in range(10_000):
        now += 0.001
        admitted += client.try_take(1, now)
    assert admitted == pytest.approx(100 * BURST_S + 100 * 10, abs=2)


def test_refusal_says_when_the_request_would_be_admitted() -> None:
    """The wait is exact: a moment before it is too early, at its end it is admitted."""
    client = Client("till", 100.0)
    while client.try_take(1, 5.0):
        pass
    with pytest.raises(RateLimited) as refused:
        client.take(10, 5.0)
    assert refused.value.wait_s == pytest.approx(0.1)
    assert not client.try_take(10, 5.0 + refused.value.wait_s - 0.001)
    assert client.try_take(10, 5.0 + refused.value.wait_s + 0.001)
    assert client.limited == 1


def test_slow_client_can_send_the_most_expensive_request() -> None:
    """The bucket holds the units of the largest request, whatever the rate."""
    assert Client("till", 1.0).try_take(LARGEST_COST, 0.0)


def test_no_limit() -> None:
    """A client without a limit is always admitted."""
    client = Client("till", NO_LIMIT)
    assert all(client.try_take(LARGEST_COST, 0.0) for _ in range(10_000))
    assert client.admitted == 10_000
