"""The decision of a transaction about one of its requests."""

from collections.abc import Sequence

from app.products.commands import Effect
from app.products.errors import Refused
from app.products.idempotency import Answer
from app.products.reservation import Reservation
from app.products.values import value_class


@value_class(frozen=True, slots=True)
class Done:
    """Carried out, with an effect for each product of the command, even if nothing had to be changed."""

    effects: Sequence[Effect]
    """They have the database's times if the request was not about a reservation."""
    reservation: Reservation | None = None
    """The reservation that it was about."""
    product_ids: Sequence[str] = ()
    """The products whose present rows must be published before the answer is given (R10)."""

    @property
    def result(self) -> Sequence[Effect] | Reservation:
        """What the answer shows."""
        return self.effects if self.reservation is None else self.reservation


@value_class(frozen=True, slots=True)
class Denied:
    """Refused by the rules; nothing was changed for it, but ended reservations may have been closed."""

    refusal: Refused
    closed: bool = False
    """Whether its transaction gave units of its products back. Every reader must see that before the refusal is answered."""
    product_ids: Sequence[str] = ()
    """The products that the decision was about."""


@value_class(frozen=True, slots=True)
class Repeated:
    """Done before, under its idempotency key, and answered with ``answer`` then."""

    answer: Answer
    product_ids: Sequence[str]
    """Their present rows must be published before the answer is given again (R10)."""


@value_class(frozen=True, slots=True)
class Postponed:
    """Not decided: somebody else holds one of its rows, or carries out a request with its idempotency key, or it is long."""

    held: Sequence[str] = ()
    """The products whose rows somebody else holds; empty if the reason is another one."""
    alone: bool = False
    """Whether it needs a transaction of its own, because a shared one would take too long."""


Decision = Done | Denied | Repeated | Postponed
