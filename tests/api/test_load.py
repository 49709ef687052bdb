"""Which requests are shed when a process has too much to do."""

from collections import Counter

import pytest

from app.api.load import CALM, HIGHEST, STEEPEST, TICK_S, WAIT_TARGET_S, Kind, Load


def test_lists_are_shed_first_and_hits_last() -> None:
    """The order holds at every pressure, and what an operator needs is never shed."""
    load = Load(0.05)
    for tenths in range(31):
        load.pressure = CALM + tenths / 10
        shed = Counter(kind for kind in Kind for _ in range(400) if load.sheds(kind))
        assert shed[Kind.LIST] >= shed[Kind.REQUEST] >= shed[Kind.HIT]
        assert shed[Kind.NEVER] == 0
        for kind in (Kind.LIST, Kind.REQUEST, Kind.HIT):
            assert shed[kind] / 400 == pytest.approx(min(1.0, max(0.0, load.pressure - CALM - kind)), abs=0.12)


def test_pressure_follows_the_load_and_falls_within_two_seconds() -> None:
    """A lag above its target raises it in small steps, and so do writes that wait; without load it is gone in two seconds."""
    load = Load(0.05)
    load.note(0.05, 0)
    assert load.pressure == 0.0
    load.note(10.0, 0)
    assert load.pressure == STEEPEST
    assert not any(load.sheds(kind) for kind in Kind for _ in range(100)), "one long step refuses nobody"
    load.note(0.0, 0)
    load.note(0.0, 3 * WAIT_TARGET_S)
    assert load.pressure == STEEPEST
    for _ in range(100):
        load.note(0.2, 0)
    assert load.pressure == HIGHEST
    ticks = 0
    while load.pressure > 0:
        load.note(0.0, 0)
        ticks += 1
    assert ticks * TICK_S < 2.0


def test_writes_that_wait_refuse_no_hit() -> None:
    """Hits do not use what the writes wait for. Everything else is shed."""
    load = Load(0.05)
    for _ in range(100):
        load.note(0.0, 100 * WAIT_TARGET_S)
    assert [load.sheds(kind) for kind in (Kind.LIST, Kind.REQUEST, Kind.HIT)] == [True, True, False]
    assert not load.may_shed(Kind.HIT)
    load.note(0.4, 100 * WAIT_TARGET_S)
    assert not load.may_shed(Kind.HIT), "the lag has a pressure of its own"


def test_writes_are_shed_after_eight_bad_ticks_in_a_row() -> None:
    """A stall, however long, is one bad tick, so it refuses no write. The log says which of the two loads was too high."""
    load = Load(0.05)
    for _ in range(7):
        load.note(10.0, 10.0)
    assert not load.may_shed(Kind.REQUEST)
    load.note(10.0, 0.0)
    assert load.may_shed(Kind.REQUEST)
    assert load.reason == "the event loop lags"
    for _ in range(8):
        load.note(0.0, 10.0)
    assert load.may_shed(Kind.REQUEST)
    assert load.reason == "writes wait for their transaction"
