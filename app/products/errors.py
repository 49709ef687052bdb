"""What a product request can be refused for. The rules raise these; ``app.api`` alone knows their HTTP statuses.

Refused
├── ProductsMissing       unknown or deleted products were named
├── AlreadyExists         a product of that id is there
├── PreconditionRequired  the request could bring sold units back and names no version
├── PreconditionFailed    the product is not in the state the request relies on
└── OutcomeUnknown        the commit's answer was lost: the change happened whole or not at all
"""

from collections.abc import Sequence


class Refused(Exception):
    """Base of every refusal; nothing was changed unless the class says otherwise."""


class ProductsMissing(Refused):
    """The request names products that are not there."""

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
    """Setting the stock of an existing product with a whole product needs If-Match, or an old copy could undo sales."""


class PreconditionFailed(Refused):
    """The product is not at a version that the request's precondition allows."""

    def __init__(self, product_id: str, current_version: int | None) -> None:
        self.product_id = product_id
        self.current_version = current_version
        """``None`` when there is no such product now."""
        super().__init__(f"product {product_id} is not at a version that the precondition allows")


class OutcomeUnknown(Refused):
    """The change was sent and its answer was lost or came too late: it happened whole, or not at all."""
