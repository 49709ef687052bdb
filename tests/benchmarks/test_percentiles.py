"""Tests of the correction for coordinated omission, and of which h2load runs are rejected."""

from collections import Counter
from random import Random

import pytest

from benchmarks.steady.h2load import Load, evaluate, parse
from benchmarks.steady.percentiles import corrected, percentile


def test_a_stall_is_seen_as_long_as_it_was() -> None:
    """A waiting client sees a stall once per connection; after correction, the stall appears in every request due during it.

    20 connections send every 10 ms for ten seconds. All of them meet a stall of one second; answers take 1 ms otherwise.
    """
    chance = Random(1)
    seen = [0.001] * (20 * 900) + [chance.uniform(0.99, 1.0) for _ in range(20)]
    assert percentile(sorted(seen), 99) == 0.001
    found = corrected(seen, 0.010)
    assert len(found) == pytest.approx(20 * 1_000, rel=0.01)
    assert percentile(found, 90) < 0.02
    assert percentile(found, 95) == pytest.approx(0.5, abs=0.02)
    assert percentile(found, 99) == pytest.approx(0.9, abs=0.02)


def _log(load: Load, *, slow_at: int | None = None, status: int = 200) -> list[str]:
    total = round(load.rate * (load.seconds + 2 * load.opening_s))
    lines = []
    for number in range(total):
        took = 50_000 if number == slow_at else 1_000
        lines.append(f"{1_000_000_000 + round(1e6 * number / load.rate)}\t{status}\t{took}\n")
    return lines


def test_a_log_is_judged_between_opening_and_ending() -> None:
    """The rate is the sending rate.

    A slow answer counts as its own latency plus the requests its connection could not send; other statuses are reported.
    """
    load = Load(1_000, 4)
    run = evaluate(parse(_log(load)), load)
    assert run.rate == pytest.approx(1_000, rel=0.001)
    assert run.late_s < 0.001
    assert (run.added, run.verified) == (0, True)
    slow = evaluate(parse(_log(load, slow_at=2_000)), load)
    assert slow.added == 3  # every 16 ms: at 34, 18 and 2 ms before the answer
    assert slow.latencies_s[-3:] == pytest.approx([0.018, 0.034, 0.050])
    assert not evaluate(parse([*_log(load), f"{2_000_000_000}\t503\t1000\n"]), load).verified


def test_only_answers_of_200_have_a_latency() -> None:
    """A refusal, however quick, does not improve the percentiles."""
    load = Load(1_000, 4)
    run = evaluate(parse(_log(load, status=503)), load)
    assert not run.latencies_s
    assert not run.verified


def test_falling_behind_is_told() -> None:
    """If a generator sends the second half of its requests a second late, the result shows that second."""
    load = Load(1_000, 4)
    on_time = [line.split("\t") for line in _log(load)]
    half = len(on_time) // 2
    late = [
        f"{int(at) + (1_000_000 if number > half else 0)}\t{status}\t{took}"
        for number, (at, status, took) in enumerate(on_time)
    ]
    assert evaluate(parse(late), load).late_s == pytest.approx(1.0, abs=0.01)
    assert Counter(one.status for one in parse(late)) == {200: len(late)}
