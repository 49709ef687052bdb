"""How long a connection may wait for its client, in virtual time."""

from collections.abc import Iterable

import pytest

from app.server.timeouts import Patience, TimeLimits, Wait, Waiting, Watched, give_up_those_who_wait, sweep
from app.settings import Settings

_LIMITS = TimeLimits(head_s=10, body_s=60, read_s=30, idle_s=75)
_REQUEST, _NEXT = {"path": "/"}, {"path": "/"}


def _ended_after(looks: Iterable[Waiting | None]) -> int | None:
    """The second at which the wait ends, if there is a look every second."""
    patience = Patience(100.0)
    return next((second for second, waiting in enumerate(looks) if patience.ends(waiting, 100.0 + second, _LIMITS)), None)


def test_limits_are_those_of_the_settings() -> None:
    """The defaults are the limits that docs/HTTP.md tells clients."""
    assert TimeLimits.of(Settings.from_env({})) == _LIMITS


@pytest.mark.parametrize(("kind", "limit_s"), [(Wait.HEAD, 10), (Wait.IDLE, 75), (Wait.READ, 30)])
def test_wait_without_progress(kind: Wait, limit_s: int) -> None:
    """It ends as soon as it has lasted longer than its limit."""
    assert _ended_after([Waiting(kind, _REQUEST, 5_000)] * 100) == limit_s + 1


def test_another_request_is_another_wait() -> None:
    """Requests are told apart by identity: an equal one is another one."""
    assert _ended_after([Waiting(Wait.IDLE, [_REQUEST, _NEXT][second // 70 % 2]) for second in range(1_000)]) is None


def test_the_servers_turn_is_no_wait() -> None:
    """What follows it begins anew."""
    head = Waiting(Wait.HEAD, _REQUEST)
    assert _ended_after([*[head] * 10, None, *[head] * 10, None]) is None


@pytest.mark.parametrize(("rate", "end"), [(0, 6), (500, 10), (1_000, 61), (100_000, 61)])
def test_body(rate: int, end: int) -> None:
    """Its average rate after five seconds must be 1 KiB/s, and it has a minute in all."""
    assert _ended_after(Waiting(Wait.BODY, _REQUEST, rate * second) for second in range(100)) == end


def test_body_that_the_server_does_not_read() -> None:
    """The time in which it reads nothing counts for nothing."""
    assert _ended_after([Waiting(Wait.BODY, _REQUEST, 0, paused=True)] * 500) is None
    paused = [Waiting(Wait.BODY, _REQUEST, 0)] * 4 + [Waiting(Wait.BODY, _REQUEST, 0, paused=True)] * 100
    assert _ended_after([*paused, *[Waiting(Wait.BODY, _REQUEST, 0)] * 10]) == 106


@pytest.mark.parametrize(("step", "end"), [(1, 31), (33, 31), (35, None), (5_000, None)])
def test_answer_that_is_read_slowly(step: int, end: int | None) -> None:
    """One kilobyte in half a minute is progress, and small steps add up to it."""
    assert _ended_after(Waiting(Wait.READ, None, 10_000_000 - step * second) for second in range(100)) == end


def test_answer_that_is_written_in_parts() -> None:
    """A further part does not hide that nothing is read; that the client let it be written is progress."""
    assert _ended_after(Waiting(Wait.READ, None, 1_000 + 100 * second) for second in range(100)) == 31
    assert _ended_after(Waiting(Wait.READ, _REQUEST if second % 40 < 20 else _NEXT, 60_000) for second in range(500)) is None


class _Faulty:
    """A connection that cannot be looked at, or one that is idle."""

    def __init__(self, *, faulty: bool) -> None:
        self.patience = Patience(100.0)
        self.faulty = faulty
        self.ended: list[Wait] = []

    def waiting(self) -> Waiting | None:
        if self.faulty:
            raise ValueError
        return Waiting(Wait.IDLE, None)

    def give_up(self, wait: Wait) -> None:
        self.ended.append(wait)


def test_an_error_keeps_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the sweep goes on with the next connection."""
    connections = [_Faulty(faulty=True), _Faulty(faulty=False)]
    for second in (0, 80):
        sweep(connections, second, _LIMITS)
    assert [connection.ended for connection in connections] == [[], [Wait.IDLE]]
    assert len(caplog.records) == 2


class _Client:
    """A connection whose waits are given."""

    def __init__(self, *waits: Waiting | None) -> None:
        self.patience = Patience(100.0)
        self.waits = list(waits)
        self.ended: list[Wait] = []

    def waiting(self) -> Waiting | None:
        return self.waits.pop(0)

    def give_up(self, wait: Wait) -> None:
        self.ended.append(wait)


def test_who_does_nothing_while_the_server_stops(caplog: pytest.LogCaptureFixture) -> None:
    """Between two looks a client has to send or read something, unless it is the server's turn or the server reads nothing."""
    still = _Client(*[Waiting(Wait.BODY, _REQUEST, 20)] * 3)
    unread = _Client(*[Waiting(Wait.READ, None, 9_000)] * 2, Waiting(Wait.READ, None, 100))
    sending = _Client(*[Waiting(Wait.BODY, _REQUEST, 20 * look) for look in range(3)])
    paused = _Client(*[Waiting(Wait.BODY, _REQUEST, 20, paused=True)] * 3)
    served = _Client(Waiting(Wait.BODY, _REQUEST, 20), None, Waiting(Wait.BODY, _NEXT, 20))
    faulty = _Faulty(faulty=True)
    connections: list[Watched] = [faulty, still, unread, sending, paused, served]
    waits: dict[Watched, Waiting | None] = {}
    for _ in range(3):
        waits = give_up_those_who_wait(connections, waits)
    ended = [connection.ended for connection in (still, unread, sending, paused, served)]
    assert ended == [[Wait.BODY, Wait.BODY], [Wait.READ], [], [], []]
    assert len(caplog.records) == 3
