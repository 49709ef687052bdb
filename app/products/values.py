"""The decorator of values that are made for each row or request."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

__all__ = ["value_class"]

if TYPE_CHECKING:
    from dataclasses import dataclass as value_class
else:

    def value_class(*, frozen: bool, slots: bool) -> Callable[[type], type]:
        """Return what makes a class a dataclass that is frozen for mypy, and hashable, but not frozen at run time.

        A frozen instance has to set each of its fields through ``object.__setattr__``, and requests make many. ``make types``
        finds code that changes one all the same.
        """
        return dataclass(slots=slots, unsafe_hash=frozen)
