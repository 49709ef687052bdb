"""The port through which the cache says what a request waits for: its own steps, and the round trips that it shares.

A *unit* is the work of one request, or of one joined batch. The unit of the running task is found without being passed on.
A batch serves several units, so it is a unit of its own, and what it waits for counts for each of them.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from typing import Protocol

from typing_extensions import override

Unit = object
"""The work of one request or of one batch; only the tracer knows what is in it."""
Joined = Callable[[Sequence[Unit]], AbstractContextManager[None]]
"""``Tracer.joined`` for batches of one name."""


class Place(StrEnum):
    """What is waited for."""

    STORE = "store"
    SOURCE = "source"
    AUDIT = "audit"


class Tracer(Protocol):
    """Who is told. No method raises or waits."""

    @property
    def traces(self) -> bool:
        """Whether any request may be traced, so that the round trips which requests share are reported, too."""

    def unit(self) -> Unit | None:
        """Return the unit of the running task; ``None`` if nobody wants to know about it."""

    def step(self, name: str, place: Place | None = None) -> AbstractContextManager[None]:
        """Return the context of one step of the present unit. If it calls a place, its time counts as a wait for it."""

    def wait(self, place: Place) -> AbstractContextManager[None]:
        """Return the context of a wait, which counts and is no step of its own."""

    def joined(self, name: str, units: Sequence[Unit], place: Place | None = None) -> AbstractContextManager[None]:
        """Return the context of work that is done once for several units. Its waits count for each of them."""


class Untraced(Tracer):
    """The tracer that tells nobody."""

    traces = False

    @override
    def unit(self) -> None:
        return None

    @override
    def step(self, name: str, place: Place | None = None) -> AbstractContextManager[None]:
        return _NOTHING

    @override
    def wait(self, place: Place) -> AbstractContextManager[None]:
        return _NOTHING

    @override
    def joined(self, name: str, units: Sequence[Unit], place: Place | None = None) -> AbstractContextManager[None]:
        return _NOTHING


_NOTHING = nullcontext()
UNTRACED = Untraced()
