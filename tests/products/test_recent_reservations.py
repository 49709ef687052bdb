"""Which reservations a process remembers, and what that tells of a command."""

from app.products.commands import UNSTAMPED, set_stock
from app.products.recent_reservations import MOST_PRODUCTS, RecentReservations
from app.products.reservation import HeldLine, RequestedLine, Reservation, Status
from app.products.reservation_commands import Commit, Reserve, Tidy


def _reservation(name: str, *products: str) -> Reservation:
    lines = [HeldLine(product, 1) for product in products]
    return Reservation(name, None, Status.HELD, UNSTAMPED, 1, UNSTAMPED, UNSTAMPED, lines)


def test_commands_without_reservations() -> None:
    """Their own products are all."""
    assert RecentReservations().products_of(set_stock("a", 1)) == (("a",), True)


def test_commands_that_name_reservations() -> None:
    """The products of those that are remembered are known, and whether others are named, too."""
    recent = RecentReservations()
    recent.remember(_reservation("r", "a", "b", "a"))
    assert recent.products_of(Commit("r")) == (["a", "b"], True)
    assert recent.products_of(Commit("s")) == ([], False)
    assert recent.products_of(Tidy(["r", "s"])) == (["a", "b"], False)
    assert recent.products_of(Reserve([RequestedLine("c", 1)], 60, replaces="r")) == (["c", "a", "b"], True)


def test_the_latest_short_ones_are_remembered() -> None:
    """As many as the limit says, and none of many products."""
    recent = RecentReservations(most=2)
    for name in ("q", "r", "s", "r"):
        recent.remember(_reservation(name, "a"))
    recent.remember(_reservation("long", *(f"p{number}" for number in range(MOST_PRODUCTS + 1))))
    assert [recent.products_of(Commit(name))[1] for name in ("q", "r", "s", "long")] == [False, True, True, False]
