"""The models of requests and answers about reservations, as those of ``models``."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, FailFast, Field, model_validator

from app.api.models import MAX_LINES, Id, Quantity, Reference, RequestModel, Rows, Timestamp, nothing
from app.products.product import MAX_INTEGER
from app.products.reservation import RESERVATION_ID_PATTERN, Part, RequestedLine
from app.products.reservation_commands import Rest

MAX_EXPIRES_IN_S = 604_800
Units = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
ExpiresIn = Annotated[
    int,
    Field(ge=1, le=MAX_EXPIRES_IN_S, description="seconds from now until the reservation ends, on the database's clock"),
]
OwnReference = Annotated[
    Reference | None, Field(description="any text of the caller, such as the number of a cart or an order")
]


class NewLine(RequestModel):
    """Units of one product to hold."""

    product_id: Id
    quantity: Units


class NewReservation(RequestModel):
    """Units to hold: all lines, or none. A product may have several lines; their sum is checked."""

    rows: ClassVar = Rows("lines", NewLine, MAX_LINES)
    lines: Annotated[list[NewLine], Field(min_length=1, max_length=MAX_LINES), FailFast()]
    expires_in_s: ExpiresIn
    reference: OwnReference = Field(default_factory=nothing)
    replaces: Annotated[
        Annotated[str, Field(pattern=RESERVATION_ID_PATTERN)] | None,
        Field(
            description="a reservation to release in the same decision: what it still holds counts as free for this one. One"
            " that holds nothing any more stays as it is. If this one is refused, the other stays held"
        ),
    ] = Field(default_factory=nothing)

    def wanted(self) -> list[RequestedLine]:
        """Return the lines to hold."""
        return [RequestedLine(line.product_id, line.quantity) for line in self.lines]


class Extension(RequestModel):
    """A later end. The reservation stays as it is if it would end earlier."""

    expires_in_s: ExpiresIn


class LinePart(RequestModel):
    """Units of one line."""

    line: Annotated[int, Field(ge=0, lt=MAX_LINES)]
    quantity: Units


_Parts = Annotated[list[LinePart], Field(min_length=1, max_length=MAX_LINES)]


def _parts_of(lines: list[LinePart] | None) -> list[Part] | None:
    return None if lines is None else [Part(part.line, part.quantity) for part in lines]


class CommitRequest(RequestModel):
    """Units to sell. Without lines: all that are open."""

    rows: ClassVar = Rows("lines", LinePart, MAX_LINES)
    lines: _Parts | None = Field(default_factory=nothing)
    rest: Literal["keep", "release"] | None = Field(
        default_factory=nothing,
        description="what becomes of the units that `lines` does not name; needed with `lines`, and only there",
    )
    reference: OwnReference = Field(default_factory=nothing)

    @model_validator(mode="after")
    def _rest_goes_with_lines(self) -> "CommitRequest":
        if (self.lines is None) != (self.rest is None):
            raise ValueError("rest is needed with lines, and only there: keep or release")
        return self

    def parts(self) -> list[Part] | None:
        """Return the units to sell, or ``None`` for all."""
        return _parts_of(self.lines)

    def remaining(self) -> Rest:
        """Return what becomes of the other units."""
        return Rest.KEEP if self.rest is None else Rest(self.rest)


class ReleaseRequest(RequestModel):
    """Units to give back. Without lines: all that are open."""

    rows: ClassVar = Rows("lines", LinePart, MAX_LINES)
    lines: _Parts | None = Field(default_factory=nothing)

    def parts(self) -> list[Part] | None:
        """Return the units to give back, or ``None`` for all."""
        return _parts_of(self.lines)


class ReservationLine(BaseModel):
    """One line of a reservation. What is neither committed, released nor expired is held."""

    line: Annotated[int, Field(ge=0, description="its number, counted from 0")]
    product_id: str
    quantity: Units
    committed: Quantity
    released: Quantity
    expired: Quantity


class Reservation(BaseModel):
    """A reservation. `expires_at` and `updated_at` are the database's times; a client counts down their difference."""

    id: str
    reference: str | None
    status: Literal["held", "committed", "released", "expired"] = Field(
        description="`held` while a unit is open, then how the last one ended. A held one whose `expires_at` has passed cannot"
        " be committed or extended any more. It does not tell whether units were sold: see `committed` of the lines"
    )
    lines: list[ReservationLine]
    expires_at: Timestamp
    version: Annotated[int, Field(ge=1)]
    created_at: Timestamp
    updated_at: Timestamp


class ReservationList(BaseModel):
    """A page of reservations, newest first."""

    items: list[Reservation]
    next: str | None = Field(description="what `after` takes for the next page; null on the last one")
