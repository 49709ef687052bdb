"""The reasons for which a product request is refused. The rules raise these errors; ``app.api`` maps them to answers.

Refused
├── ProductsMissing       unknown or deleted products were named
├── AlreadyExists         a product of that id is there
├── PreconditionRequired  the request could undo sales, and names no version
├── PreconditionFailed    the product is not in the state the request relies on
├── InsufficientStock     an adjustment takes more than there is
├── StockLimit            an adjustment adds more than a stock can hold
├── ProductReserved       a product to delete has units that are held
├── NotEnabled            reservations begin when the migration is finished
├── ReservationMissing    an unknown reservation was named
├── ReservationChanged    the reservation is not at a version that the request relies on
├── ReservationExpired    the reservation has ended, and its units were given back
├── ReservationClosed     the reservation was committed or released, and nothing of it is open
├── NotHeld               the request names more units than are open
├── LifeTooLong           the reservation would live longer than one may
├── TooManyEnded          units are free only after more ended lines are given back than one request may
├── NotHere               the request belongs to another pair of Larder and PostgreSQL
├── BucketMoving          a bucket is being moved from one pair to another
├── SeveralPairs          the request names products of several pairs
├── KeyReused             the idempotency key belongs to another request
└── RequestInProgress     another request with the same idempotency key is not finished

OutcomeUnknown            not a refusal: the change was sent and its answer was lost or came too late
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime


class Refused(Exception):
    """Base of every refusal. The request changed nothing; ended reservations may have been closed."""


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
    """A product without enough units for the request, with its values under the lock."""

    product_id: str
    available: int
    """The units that the request could have had: the free ones, or all that are there when it commits held ones."""
    requested: int
    version: int
    stock: int
    reserved: int


class UnitsNeeded(Refused):
    """The request would be carried out if more units were free. Ended reservations may still hold some."""

    def __init__(self, message: str, free: Mapping[str, int]) -> None:
        self.free = free
        """How many units of each product must be free."""
        super().__init__(message)


class InsufficientStock(UnitsNeeded):
    """The request takes more than it can have; no line of it was done."""

    def __init__(self, shortages: Sequence[Shortage], own: Mapping[str, int] | None = None) -> None:
        self.shortages = tuple(shortages)
        names = ", ".join(shortage.product_id for shortage in self.shortages)
        own = own or {}  # units that the request gives up and takes again, which need not be free
        super().__init__(
            f"not enough stock of {names}", {s.product_id: s.requested - own.get(s.product_id, 0) for s in self.shortages}
        )


class ProductReserved(UnitsNeeded):
    """The product to delete has units that are held; it was left as it is."""

    def __init__(self, product_id: str, stock: int, reserved: int, version: int) -> None:
        self.product_id = product_id
        self.reserved = reserved
        self.version = version
        super().__init__(f"{reserved} units of product {product_id} are held", {product_id: stock})


class StockLimit(Refused):
    """An adjustment adds more than a stock can hold; no line of it was done."""

    def __init__(self, product_ids: Sequence[str]) -> None:
        self.product_ids = tuple(product_ids)
        super().__init__(f"the stock of {', '.join(self.product_ids)} would exceed 2^53-1")


class NotEnabled(Refused):
    """The database's migration is not finished, and instances of a release without reservations may still run."""


class ReservationMissing(Refused):
    """The request names a reservation that does not exist."""

    def __init__(self, reservation_id: str) -> None:
        self.reservation_id = reservation_id
        super().__init__(f"no reservation {reservation_id}")


class ReservationChanged(Refused):
    """The reservation is not at a version that the request's precondition allows."""

    def __init__(self, reservation_id: str, current_version: int) -> None:
        self.reservation_id = reservation_id
        self.current_version = current_version
        super().__init__(f"reservation {reservation_id} is at version {current_version}")


class ReservationExpired(Refused):
    """The reservation has ended. Its open units were given back, and nothing of it can be committed or extended."""

    def __init__(self, reservation_id: str, expires_at: datetime, version: int) -> None:
        self.reservation_id = reservation_id
        self.expires_at = expires_at
        self.version = version
        super().__init__(f"reservation {reservation_id} ended at {expires_at}")


class ReservationClosed(Refused):
    """No unit of the reservation is open any more."""

    def __init__(self, reservation_id: str, status: str, version: int) -> None:
        self.reservation_id = reservation_id
        self.status = status
        self.version = version
        super().__init__(f"reservation {reservation_id} is {status}")


@dataclass(frozen=True, slots=True)
class Excess:
    """A line of which the request names more units than are open."""

    line: int
    open: int
    requested: int


class NotHeld(Refused):
    """The request names more units of a reservation's lines than are open; nothing of it was done."""

    def __init__(self, reservation_id: str, lines: Sequence[Excess]) -> None:
        self.reservation_id = reservation_id
        self.lines = tuple(lines)
        super().__init__(f"lines {', '.join(str(excess.line) for excess in lines)} of {reservation_id} hold less")


class LifeTooLong(Refused):
    """The reservation would end later than it may; it was left as it is."""


class TooManyEnded(Refused):
    """Units are free only after more ended lines are given back than one request may. Those of the limit were given back."""


class NotHere(Refused):
    """The bucket of the request belongs to another pair of Larder and PostgreSQL."""

    def __init__(self, bucket: int, here: str) -> None:
        self.members: Mapping[str, object] = {"bucket": bucket, "buckets_here": here}
        super().__init__(f"Bucket {bucket} belongs to another pair; this one holds the buckets {here}")


class BucketMoving(Refused):
    """The request is about a bucket that is being moved from one pair to another."""

    def __init__(self, bucket: int) -> None:
        self.members: Mapping[str, object] = {"bucket": bucket}
        super().__init__(f"Bucket {bucket} is being moved from one pair to another")


class SeveralPairs(Refused):
    """The request names products or reservations of this pair and of others; no transaction spans several."""

    def __init__(self, here: Sequence[str], elsewhere: Sequence[str]) -> None:
        self.members: Mapping[str, object] = {"here": list(here), "elsewhere": list(elsewhere)}
        super().__init__(f"{here[0]} belongs to this pair, and {elsewhere[0]} to another one")


class KeyReused(Refused):
    """The idempotency key was used for another request: its answer would be wrong for this one."""


class RequestInProgress(Refused):
    """Another request with the same idempotency key did not finish in time; this one was not begun."""


class OutcomeUnknown(Exception):
    """The change was sent and its answer was lost or came too late: it happened as a whole, or not at all."""
