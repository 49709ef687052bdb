"""The models of the change feed's answers."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.api.models import Movement, Product
from app.api.reservation_models import Reservation


class ProductChange(BaseModel):
    """The newest state of a product that changed. States between two readings are left out."""

    type: Literal["product"]
    id: str
    version: Annotated[int, Field(ge=1)]
    product: Product | None = Field(description="what GET /products/{id} returns; null for a product that was deleted")


class MovementChange(Movement):
    """An entry of the ledger. None is left out."""

    type: Literal["movement"]


class ReservationChange(BaseModel):
    """The newest state of a reservation that changed. States between two readings are left out."""

    type: Literal["reservation"]
    id: str
    version: Annotated[int, Field(ge=1)]
    reservation: Reservation = Field(description="what GET /reservations/{id} returns")


class ChangeList(BaseModel):
    """Events of the change feed, in order."""

    items: list[ProductChange | MovementChange | ReservationChange]
    next: str = Field(description="what `after` takes to go on from here")
    more: bool = Field(description="whether further events are there already")
