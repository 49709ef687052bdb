"""The places for connections: how many there are, and who leaves when they are taken."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from app.api.metrics import ConnectionStats
from app.server.capacity import FREE_BODY_BYTES, Closeable, HeldBody, Places, connection_limit
from app.server.timeouts import Patience, TimeLimits, Wait, Waiting
from app.server.tls import FAIR_HANDSHAKE_S, Handshakes
from app.settings import Settings

_LIMITS = TimeLimits(head_s=10, body_s=60, read_s=30, idle_s=75)


class _Client:
    """A connection that is idle since a moment, or busy."""

    def __init__(self, connections: "set[Closeable]", since: float | None) -> None:
        self.patience = Patience(0.0)
        self.closed = False
        self.request: object = object()
        self._idle = since is not None
        if since is not None:
            self.patience.ends(Waiting(Wait.IDLE, self.request), since, _LIMITS)
        connections.add(self)

    def idle(self) -> Waiting | None:
        return Waiting(Wait.IDLE, self.request) if self._idle and not self.closed else None

    def make_room(self) -> None:
        self.closed = True


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with ExitStack() as opened:
        one, two = (opened.enter_context(end) for end in socket.socketpair())
        two.settimeout(5)
        yield one, two


@pytest.mark.parametrize(
    ("setting", "descriptors", "limit"),
    [(10_000, 1_024, 758), (10_000, 65_536, 10_000), (10_000, resource.RLIM_INFINITY, 10_000), (100, 1_024, 100), (5, 4, 1)],
)
def test_limit_leaves_descriptors_for_others(setting: int, descriptors: int, limit: int) -> None:
    """PostgreSQL's connections and a quarter of all descriptors are left; the setting is never exceeded."""
    settings = Settings.from_env({"LARDER_CONNECTION_LIMIT": str(setting)})
    assert connection_limit(settings, descriptors) == limit


def test_longest_idle_one_leaves_first(pair: tuple[socket.socket, socket.socket]) -> None:
    """One for each new connection, in their order; those with a request stay."""
    connections: set[Closeable] = set()
    stats = ConnectionStats()
    places = Places(3, connections, lambda: stats, Handshakes())
    late, early, busy = (_Client(connections, since) for since in (20.0, 10.0, None))
    assert places.admit(pair[0], 0)
    assert (early.closed, late.closed, busy.closed) == (True, False, False)
    assert places.admit(pair[0], 1)
    assert (late.closed, busy.closed) == (True, False)
    assert stats.closed == {"room": 2}
    connections.clear()
    assert places.admit(pair[0], 2)
    assert stats.closed == {"room": 2}


def test_one_that_was_used_since_the_last_look_stays(pair: tuple[socket.socket, socket.socket]) -> None:
    """What the last look saw of it is out of date: it has been idle for less time than any other."""
    connections: set[Closeable] = set()
    places = Places(3, connections, ConnectionStats, Handshakes())
    used, later, latest = (_Client(connections, since) for since in (10.0, 20.0, 30.0))
    used.request = object()
    assert places.admit(pair[0], 0)
    assert (used.closed, later.closed) == (False, True)
    latest.request = object()
    assert places.admit(pair[0], 1)
    assert (used.closed, latest.closed) == (True, False)


def test_without_idle_ones_a_new_one_is_refused(pair: tuple[socket.socket, socket.socket]) -> None:
    """It gets a 503 that says when to come again; those that become idle are found at the next look."""
    connections: set[Closeable] = set()
    stats = ConnectionStats()
    places = Places(1, connections, lambda: stats, Handshakes())
    _Client(connections, None)
    pair[1].send(b"GET / HTTP/1.1\r\n\r\n")
    assert not places.admit(pair[0], 0)
    answer = pair[1].recv(65_536)
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nretry-after: 1\r\n" in answer
    assert b'"type": "/problems/overloaded"' in answer
    assert pair[1].recv(1) == b""
    assert stats.closed == {"full": 1}
    idle = _Client(connections, 10.0)
    with ExitStack() as opened:
        one, _two = (opened.enter_context(end) for end in socket.socketpair())
        assert not places.admit(one, 0)
        places.look_again()
        assert places.admit(one, 0)
    assert idle.closed


def test_those_found_are_searched_for_again_when_all_are_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    """A burst of new connections may close every connection that was idle when it began, and those that are idle by then."""
    connections: set[Closeable] = set()
    places = Places(2, connections, ConnectionStats, Handshakes())
    first, _busy = _Client(connections, 10.0), _Client(connections, None)
    assert places.admit(pair[0], 0)
    second = _Client(connections, 20.0)
    assert places.admit(pair[0], 0)
    assert (first.closed, second.closed) == (True, True)
    assert not places.admit(pair[0], 2)


def test_a_slow_handshake_leaves_for_a_new_connection() -> None:
    """The oldest one, if no connection is idle. One that has just begun is left alone."""
    now = 100.0
    connections: set[Closeable] = set()
    stats = ConnectionStats()
    handshakes = Handshakes(lambda: now)
    places = Places(3, connections, lambda: stats, handshakes)
    with ExitStack() as opened:
        pairs = [[opened.enter_context(end) for end in socket.socketpair()] for _ in range(3)]
        for ours, client in pairs:
            client.settimeout(0)
            if ours is not pairs[2][0]:
                opened.enter_context(handshakes.under_way(ours))
                now += FAIR_HANDSHAKE_S
        now += 0.01
        idle = _Client(connections, 10.0)
        assert places.admit(pairs[2][0], 2)
        assert idle.closed
        assert places.admit(pairs[2][0], 2)
        assert pairs[0][1].recv(1) == b""
        with pytest.raises(BlockingIOError):
            pairs[1][1].recv(1)
        now -= 0.1
        assert not places.admit(pairs[2][0], 3)
    assert stats.closed == {"room": 2, "full": 1}


def test_bytes_of_a_body_count_until_its_answer() -> None:
    """Those of an answered request are given back, those of the next one on the connection are not."""
    stats = ConnectionStats()
    held = HeldBody(stats, 100_000)
    assert held.add(FREE_BODY_BYTES + 50_000, kept=True)
    held.begin()
    assert held.add(FREE_BODY_BYTES + 40_000, kept=True)
    assert stats.large_body_bytes == 90_000
    assert not held.add(10_001, kept=True)
    assert held.add(10_001, kept=False)
    held.received = FREE_BODY_BYTES + 40_000
    held.release(but_present=True)
    assert stats.large_body_bytes == 40_000
    held.release()
    assert stats.large_body_bytes == 0
