"""What a transaction decided on one of its requests.

Decision
├── Done        it changed what it asked for, or found it so
├── Denied      the rules refuse it; nothing was changed for it
├── Repeated    it was done before, under its idempotency key; here is what was answered then
└── Postponed   not decided: somebody else holds a row that it needs, or is doing a request with its idempotency key
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.products.commands import Effect
from app.products.errors import Refused
from app.products.idempotency import Answer


@dataclass(frozen=True, slots=True)
class Done:
    """An effect for each product of the command."""

    effects: Sequence[Effect]


@dataclass(frozen=True, slots=True)
class Denied:
    """Refused by the rules."""

    refusal: Refused


@dataclass(frozen=True, slots=True)
class Repeated:
    """Done before."""

    answer: Answer
    product_ids: Sequence[str]
    """Their present rows must be published before the answer is given again (R10)."""


@dataclass(frozen=True, slots=True)
class Postponed:
    """Not decided; nothing was changed."""

    held: Sequence[str] = ()
    """The products whose rows somebody else holds; empty when it is the idempotency key."""


Decision = Done | Denied | Repeated | Postponed
