"""The reasons for which a product request is refused. The rules raise these errors; ``app.api`` maps them to answers.

Refused
├── ProductsMissing       unknown or deleted products were named
├── AlreadyExists         a product of that id is there
├── PreconditionRequired  the request could undo sales, and names no version
├── PreconditionFailed    the product is not in the state the request relies on
├── InsufficientStock     an adjustment takes more than there is
├── StockLimit            an adjustment adds more than a stock can hold
├── KeyReused             the idempotency key belongs to another request
└── RequestInProgress     another request with the same idempotency key is not finished

OutcomeUnknown            not a refusal: the change was sent and its answer was lost or came too late
"""

from collections.abc import Sequence
from dataclasses import dataclass


class Refused(Exception):
    """Base of every refusal; nothing was changed."""


class ProductsMissing(Refused):
    """The request names products that do not exist."""

    def __init__(self, missing: Sequence[str]) -> None:
        self.missing = tuple(missing)
        super().__init__(f"no product {', '.join(self.missing)}")


class AlreadyExists(Refused):
    """A product of that id exists already; it was left as it is."""

    def __init__(self, product_id: str, version: int) -> None:
        self.product_id = product_id
        self.version = version
        super().__init__(f"product {product_id} exists already, at version {version}")


class PreconditionRequired(Refused):
    """The request sets the stock of an existing product and names no version: an old copy of it could undo sales."""


class PreconditionFailed(Refused):
    """The product is not at a version that the request's precondition allows."""

    def __init__(self, product_id: str, current_version: int | None) -> None:
        self.product_id = product_id
        self.current_version = current_version
        """``None`` when there is no such product now."""
        super().__init__(f"product {product_id} is not at a version that the precondition allows")


@dataclass(frozen=True, slots=True)
class Shortage:
    """A product that an adjustment would take below zero, with its values under the lock."""

    product_id: str
    available: int
    requested: int
    version: int


class InsufficientStock(Refused):
    """An adjustment takes more than there is; no line of it was done."""

    def __init__(self, shortages: Sequence[Shortage]) -> None:
        self.shortages = tuple(shortages)
        super().__init__(f"not enough stock of {', '.join(shortage.product_id for shortage in self.shortages)}")


class StockLimit(Refused):
    """An adjustment adds more than a stock can hold; no line of it was done."""

    def __init__(self, product_ids: Sequence[str]) -> None:
        self.product_ids = tuple(product_ids)
        super().__init__(f"the stock of {', '.join(self.product_ids)} would exceed 2^53-1")


class KeyReused(Refused):
    """The idempotency key was used for another request: its answer would be wrong for this one."""


class RequestInProgress(Refused):
    """Another request with the same idempotency key did not finish in time; this one was not begun."""


class OutcomeUnknown(Exception):
    """The change was sent and its answer was lost or came too late: it happened as a whole, or not at all."""
