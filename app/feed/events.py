"""What the feed tells, and where a follower is in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class EventType(StrEnum):
    """The kinds of events."""

    PRODUCT = "product"
    MOVEMENT = "movement"
    RESERVATION = "reservation"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place within a window. Its events are in the order of id, version and line."""

    id: str
    """A product, or a reservation."""
    version: int
    line: int
    """The line of a movement, or ``PRODUCT_LINE`` or ``RESERVATION_LINE``."""


PRODUCT_LINE = -1
"""Stands in the place of a line for the product itself, which comes before its movements of the same version."""
RESERVATION_LINE = -2
"""Stands in the place of a line for a reservation. A product may have the same id."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change, as JSON in ``body``."""

    type: EventType
    position: Position
    body: bytes


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a follower is: everything that mark ``number`` contains has been told.

    Within a page it has been told, besides, what lies before ``position`` in the window that ends at mark ``upto``, of the
    ``types`` that were asked for.
    """

    epoch: str
    number: int
    upto: int = 0
    position: Position | None = None
    types: frozenset[EventType] = frozenset()


@dataclass(frozen=True)
class Page:
    """Some events in order. All followers at the same place share one page, and with it the bytes made of it."""

    events: Sequence[Event]
    next: Cursor
    more: bool
    """Whether there are events after ``next`` already."""
    renderings: dict[str, bytes] = field(default_factory=dict)
    """What endpoints have made of the page, by the name of the form."""
