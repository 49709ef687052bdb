"""The decision of a transaction about one of its requests."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.products.commands import Effect
from app.products.errors import Refused
from app.products.idempotency import Answer


@dataclass(frozen=True, slots=True)
class Done:
    """Carried out, with an effect for each product of the command, even if nothing had to be changed."""

    effects: Sequence[Effect]


@dataclass(frozen=True, slots=True)
class Denied:
    """Refused by the rules; nothing was changed for it."""

    refusal: Refused


@dataclass(frozen=True, slots=True)
class Repeated:
    """Done before, under its idempotency key, and answered with ``answer`` then."""

    answer: Answer
    product_ids: Sequence[str]
    """Their present rows must be published before the answer is given again (R10)."""


@dataclass(frozen=True, slots=True)
class Postponed:
    """Not decided: somebody else holds one of its rows, or is carrying out a request with its idempotency key."""

    held: Sequence[str] = ()
    """The products whose rows somebody else holds; empty if the reason is the idempotency key."""


Decision = Done | Denied | Repeated | Postponed
