"""The products of reservations, so that a request that names one can be put beside those for its products. It does no I/O."""

from collections import OrderedDict
from collections.abc import Sequence

from app.products.commands import Command
from app.products.reservation import Reservation

MOST_PRODUCTS = 10
"""Most products of a reservation that is remembered."""


class RecentReservations:
    """The reservations that a process made or changed last, at most ``most`` of them. Their products never change."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._products: OrderedDict[str, Sequence[str]] = OrderedDict()

    def remember(self, reservation: Reservation) -> None:
        """Remember a reservation, unless it has many products."""
        if reservation.id not in self._products and len(products := reservation.product_ids) <= MOST_PRODUCTS:
            if len(self._products) >= self._most:
                # ``del products[next(iter(products))]`` would pass over the places of all that were deleted before.
                self._products.popitem(last=False)
            self._products[reservation.id] = products

    def products_of(self, command: Command) -> tuple[Sequence[str], bool]:
        """Return the products of a command, as far as they are known, and whether these are all."""
        if not command.reservation_ids:
            return command.keys, True
        found = [self._products.get(name) for name in command.reservation_ids]
        keys = [*command.keys]
        for products in found:
            keys += products or ()
        return keys, None not in found
