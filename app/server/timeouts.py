"""The time limits of connections: how long the server waits for a client, and the sweep that ends what takes longer.

A request sets no timer. Twice a second the sweep looks at what each connection waits for, and compares that with what it saw
before. A limit is therefore kept to half a second, and a request costs nothing more.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import NamedTuple, Protocol, Self

from app.settings import Settings

_SLOW_START_S = 5.0
"""Seconds that a body may take to begin."""
_BODY_BYTES_PER_S = 1_024
"""Rate that a body has to keep, on average, after that."""
_READ_BYTES = 1_024
"""Bytes of an answer whose reading counts as progress."""
_unexpected = logging.getLogger("larder")


class Wait(Enum):
    """What a connection waits for. The values are the labels of ``larder_connections_closed_total``."""

    HEAD = "head_timeout"
    """The end of a request's head, or its first byte on a new connection."""
    BODY = "body_timeout"
    READ = "unread"
    """The client has to read its answer."""
    IDLE = "idle"
    """The next request."""


class Waiting(NamedTuple):
    """A wait for the client."""

    kind: Wait
    subject: object
    """The request or the stretch of the answer that it is about. Another one begins another wait."""
    amount: int = 0
    """Bytes of the body received, or bytes of the answer that are unread."""
    paused: bool = False
    """Whether the server itself has stopped reading, so that the client can do nothing."""


def _same(before: Waiting | None, now: Waiting) -> bool:
    return before is not None and before.kind is now.kind and before.subject is now.subject


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """The longest wait of each kind, in seconds."""

    head_s: float
    body_s: float
    read_s: float
    idle_s: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the limits in the settings."""
        return cls(
            settings.head_timeout_ms / 1_000,
            settings.body_timeout_ms / 1_000,
            settings.unread_timeout_ms / 1_000,
            settings.idle_timeout_ms / 1_000,
        )


STOP_PATIENCE_S = 2.0
"""Seconds that a client may do nothing while the server stops."""


class Patience:
    """How long one connection has waited for its client.

    Args:
        now: when it was accepted.
    """

    __slots__ = ("_looked_at", "_since", "_waiting")

    def __init__(self, now: float) -> None:
        self._waiting: Waiting | None = Waiting(Wait.HEAD, None)
        self._since = self._looked_at = now

    def since(self, waiting: Waiting) -> float:
        """Return when the connection began to wait for this, or ``inf`` if that was after the last look."""
        return self._since if _same(self._waiting, waiting) else inf

    def ends(self, waiting: Waiting | None, now: float, limits: TimeLimits) -> bool:
        """Take note of what the connection waits for now. Return whether that has lasted too long."""
        before, self._waiting = self._waiting, waiting
        since_last_look, self._looked_at = now - self._looked_at, now
        if waiting is None:
            return False
        if before is None or not _same(before, waiting):
            self._since = now
            return False
        if waiting.paused:
            self._since += since_last_look
            return False
        return self._lasts_too_long(before, waiting, now, limits)

    def _lasts_too_long(self, before: Waiting, waiting: Waiting, now: float, limits: TimeLimits) -> bool:
        waited = now - self._since
        if waiting.kind is Wait.BODY:
            return waited > limits.body_s or waiting.amount < (waited - _SLOW_START_S) * _BODY_BYTES_PER_S
        if waiting.kind is Wait.READ:
            if before.amount - waiting.amount >= _READ_BYTES:
                self._since = now
                return False
            # What was unread when the wait began stays the measure, so that small steps add up.
            self._waiting = waiting._replace(amount=max(before.amount, waiting.amount))
            return waited > limits.read_s
        return waited > (limits.head_s if waiting.kind is Wait.HEAD else limits.idle_s)


class Watched(Protocol):
    """A connection as the sweep sees it."""

    patience: Patience

    def waiting(self) -> Waiting | None:
        """Return what it waits for, or ``None`` while it is the server's turn."""

    def give_up(self, wait: Wait) -> None:
        """End the connection, whose client took too long."""


def give_up_those_who_wait(
    connections: Collection[Watched], before: Mapping[Watched, Waiting | None]
) -> dict[Watched, Waiting | None]:
    """Give up the connections whose clients have done nothing since the last look, while the server stops.

    Args:
        connections: the connections that are left.
        before: what each waited for at the last look.

    Returns:
        What each waits for now.
    """
    now: dict[Watched, Waiting | None] = {}
    for connection in list(connections):
        try:
            now[connection] = waiting = connection.waiting()
            last = before.get(connection)
            if waiting is None or waiting.paused or last is None:
                continue
            if _same(last, waiting) and last.amount == waiting.amount:
                connection.give_up(waiting.kind)
        except Exception:  # noqa: BLE001 - one connection must not keep the others from being ended
            _unexpected.exception("the wait of a connection could not be ended")
    return now


def sweep(connections: Collection[Watched], now: float, limits: TimeLimits) -> None:
    """Give up the connections that have waited too long. An unexpected error is logged, and the others are looked at."""
    for connection in list(connections):
        try:
            waiting = connection.waiting()
            if connection.patience.ends(waiting, now, limits) and waiting is not None:
                connection.give_up(waiting.kind)
        except Exception:  # noqa: BLE001 - one connection must not keep the others from being ended
            _unexpected.exception("the time limits of a connection could not be checked")
