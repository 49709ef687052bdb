"""The token bucket of a client."""

import pytest

from app.access.errors import RateLimited
from app.access.rates import BURST_S, SMALLEST_BUCKET, Client, Limits, Quota


def test_rate_is_kept_over_any_time() -> None:
    """In any stretch a client gets at most its burst and what flowed in meanwhile."""
    client = Client("till", Limits(100.0))
    now, admitted = 0.0, 0
    for _ in range(10_000):
        now += 0.001
        admitted += client.try_take(1, now)
    assert admitted == pytest.approx(100 * BURST_S + 100 * 10, abs=2)


def test_refusal_says_when_the_request_would_be_admitted() -> None:
    """The wait is exact: a moment before it is too early, at its end it is admitted."""
    client = Client("till", Limits(100.0))
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
    assert Client("till", Limits(1.0)).try_take(SMALLEST_BUCKET, 0.0)


def test_no_limit() -> None:
    """A client without a limit is always admitted."""
    client = Client("till", Limits())
    assert all(client.try_take(SMALLEST_BUCKET, 0.0) for _ in range(10_000))
    assert client.admitted == 10_000


def test_quota_becomes_free_evenly_over_the_day() -> None:
    """It is charged after the use, refuses what comes then, and says when a part is free again."""
    quota = Quota("new products", 100)
    assert quota.wait_s(0.0) == 0.0
    quota.charge(150, 0.0)
    wait_s = quota.wait_s(0.0)
    assert wait_s == pytest.approx(51 * 864)
    assert quota.wait_s(wait_s - 864.1) > 0.0
    assert quota.wait_s(wait_s) == 0.0
    quota.charge(0, 10 * 86_400.0)
    quota.charge(100, 10 * 86_400.0)
    assert quota.wait_s(10 * 86_400.0) == pytest.approx(864)


def test_no_quota() -> None:
    """Without a quota nothing is counted."""
    quota = Quota("new products", float("inf"))
    quota.charge(10**9, 0.0)
    assert quota.wait_s(0.0) == 0.0
