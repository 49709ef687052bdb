"""The products of reservations, so that a request that names one can be put beside those for its products. It does no I/O."""

from collections.abc import Sequence

from app.products.commands import Command
from app.products.reservation import Reservation
from app.products.reservation_commands import named_in

MOST_PRODUCTS = 10
"""Most products of a reservation that is remembered."""


class RecentReservations:
    """The reservations that a process made or changed last, at most ``most`` of them. Their products never change."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._products: dict[str, Sequence[str]] = {}

    def remember(self, reservation: Reservation) -> None:
        """Remember a reservation, unless it has many products."""
        if reservation.id not in self._products and len(products := reservation.product_ids) <= MOST_PRODUCTS:
            if len(self._products) >= self._most:
                del self._products[next(iter(self._products))]
            self._products[reservation.id] = products

    def products_of(self, command: Command) -> tuple[Sequence[str], bool]:
        """Return the products of a command, as far as they are known, and whether these are all."""
        if not (names := named_in(command)):
            return command.keys, True
        named = [key for name in names for key in self._products.get(name, ())]
        return [*command.keys, *named], all(name in self._products for name in names)
