"""Tests of what counts as a violation of liveness, with histories made by hand and without servers."""

import pytest

from tests.harness.faultlog import EVERYWHERE, Fault, FaultLog
from tests.outages.liveness import GAP_S, TAKES_OVER_S, WRITE_BUDGET_S, Look, Looks

_STEP_S = 0.1


def _seen(*faults: Fault, trusted: float = 0.0) -> Looks:
    log = FaultLog()
    log.all += faults
    looks = Looks(log)
    looks.trusted.append(trusted)
    return looks


def _misses(since: float, seconds: float) -> list[Look]:
    return [Look(0, since + n * _STEP_S, since + n * _STEP_S + 0.001, good=False) for n in range(round(seconds / _STEP_S) + 1)]


@pytest.mark.parametrize(
    "elsewhere",
    [
        Fault("postgres-away", "postgres", 1, 9.0, 20.0),
        Fault("redis-hold", "redis", 2, 9.0, 20.0),
        Fault("rows-held", "rows", EVERYWHERE, 9.0, 20.0),
        Fault("ledger-locked", "ledger", EVERYWHERE, 9.0, 20.0),
        Fault("redis-other", "redis", 1, 9.0, 20.0),
        Fault("redis-stop", "redis", EVERYWHERE, 1.0, 10.0 - TAKES_OVER_S - 0.1),
    ],
    ids=lambda fault: fault.kind,
)
def test_no_hits_for_too_long_whatever_happens_elsewhere(elsewhere: Fault) -> None:
    """An instance that reaches both servers has hits, even during a fault of another one or after one that is over."""
    looks = _seen(elsewhere)
    looks.reads += _misses(10.0, GAP_S + 0.3)
    [violation] = looks.judge()
    assert "instance 0 reached both servers and had no hit" in violation
    assert elsewhere.kind in violation or elsewhere.kind == "redis-stop"


@pytest.mark.parametrize(
    "own",
    [
        Fault("postgres-hold", "postgres", 0, 9.0, 20.0),
        Fault("redis-stop", "redis", EVERYWHERE, 9.0, 9.5),
        Fault("service-stop", "service", 0, 8.0, None),
        Fault("machine-stalled", "machine", EVERYWHERE, 8.0, 9.5),
    ],
    ids=lambda fault: fault.kind,
)
def test_a_fault_of_its_own_excuses(own: Fault) -> None:
    """An instance that did not reach both servers a moment ago need not have hits or quick writes."""
    looks = _seen(own)
    looks.reads += _misses(10.0, GAP_S + 0.3)
    looks.writes.append(Look(0, 10.0, 30.0, good=False))
    assert looks.judge() == []


def test_trusted_since_the_fault_is_no_excuse() -> None:
    """Once the cache was seen trusted everywhere, an earlier fault no longer excuses a gap."""
    looks = _seen(Fault("redis-stop", "redis", EVERYWHERE, 8.0, 9.0), trusted=9.5)
    looks.reads += _misses(10.0, GAP_S + 0.3)
    assert len(looks.judge()) == 1


def test_another_redis_may_take_the_trust_only_when_something_else_failed() -> None:
    """While one instance has another Redis, that one may be the trusted server after a fault elsewhere."""
    change = Fault("redis-other", "redis", 1, 9.0, 20.0)
    looks = _seen(change, Fault("postgres-cut", "postgres", 2, 8.0, 8.5))
    looks.reads += _misses(10.0, GAP_S + 0.3)
    assert looks.judge() == []


def test_a_hit_ends_a_stretch() -> None:
    """Two short gaps are not one long gap."""
    looks = _seen()
    looks.reads += [*_misses(10.0, GAP_S / 2), Look(0, 10.6, 10.61, good=True), *_misses(10.7, GAP_S / 2)]
    assert looks.judge() == []
    assert looks.counts["live: of these hits"] == 1


def test_a_write_that_is_late_or_fails() -> None:
    """A write to a free product is acknowledged within its budget, whatever rows others hold."""
    looks = _seen(Fault("rows-held", "rows", EVERYWHERE, 9.0, 20.0))
    looks.writes += [
        Look(0, 10.0, 10.0 + WRITE_BUDGET_S + 0.1, good=True),
        Look(0, 10.0, 10.2, good=False),
        Look(0, 10.0, 10.2, good=True),
    ]
    assert len(looks.judge()) == 2
    assert looks.judge() == []
