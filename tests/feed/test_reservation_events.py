"""What the feed tells of reservations, on a real PostgreSQL."""

import json
from typing import Any

from app.feed.events import Event, EventType
from app.feed.windows import ALL_TYPES, START, Key
from app.products.commands import Command
from app.products.decision import Done
from app.products.idempotency import WriteRequest
from app.products.payload import reservation_payload
from app.products.reservation import Part, RequestedLine, Reservation
from app.products.reservation_commands import Commit, Extend, Release, Reserve
from app.products.transactions import ProductTransactions
from tests.feed.rig import Base
from tests.feed.schedules import make

ONLY = frozenset({EventType.RESERVATION})


async def reserve(base: Base, command: Command) -> Reservation:
    """Carry out a command on a reservation."""
    [decision] = (await ProductTransactions(base.database).commit([WriteRequest(command)])).decisions
    assert isinstance(decision, Done), decision
    assert decision.reservation is not None
    return decision.reservation


async def read(base: Base, since: int, upto: int, types: frozenset[EventType], *, page: int = 100) -> list[Event]:
    """The events of a window, of some types, a page at a time."""
    keys: list[Key] = []
    while more := await base.windows.keys(since, upto, limit=page, types=types, after=keys[-1] if keys else START):
        keys += more
    return await base.windows.events(since, upto, keys) if keys else []


async def told(base: Base, since: int, upto: int) -> list[dict[str, Any]]:
    """The events of a window about reservations."""
    return [json.loads(event.body) for event in await read(base, since, upto, ONLY)]


def event(reservation: Reservation) -> dict[str, Any]:
    """What is told of a reservation."""
    body = json.loads(reservation_payload(reservation))
    return {"type": "reservation", "id": reservation.id, "version": reservation.version, "reservation": body}


async def test_every_change_of_a_reservation_is_told(base: Base) -> None:
    """Each window has the newest state that its mark contains, with the movements beside it. Other types leave it out."""
    await make(base, "a", "b")
    await base.audit()
    made = await reserve(base, Reserve([RequestedLine("a", 2), RequestedLine("b", 1)], 60, "cart-9"))
    await base.audit()
    assert await told(base, 1, 2) == [event(made)]
    extended = await reserve(base, Extend(made.id, 600))  # no product changes
    await base.audit()
    assert await told(base, 2, 3) == [event(extended)]
    await reserve(base, Commit(made.id, [Part(0, 1)]))
    ended = await reserve(base, Release(made.id))
    assert (await base.audit()).number == 4
    assert ended.version == 4
    assert await told(base, 3, 4) == await told(base, 1, 4) == [event(ended)]
    whole = await base.windows.read(1, 4, limit=100)
    assert [e.position for e in whole] == sorted(e.position for e in whole)
    movements = [json.loads(e.body) for e in whole if e.type is EventType.MOVEMENT]
    assert {(m["reason"], m["delta"], m["reserved_delta"], m["reservation_id"]) for m in movements} == {
        ("hold", 0, 2, made.id), ("hold", 0, 1, made.id), ("sale", -1, -1, made.id), ("release", 0, -1, made.id),
    }  # fmt: skip
    products = await read(base, 1, 4, frozenset({EventType.PRODUCT}))
    assert [json.loads(e.body)["product"]["available"] for e in products] == [8, 9]


async def test_a_reservation_and_a_product_of_one_id(base: Base) -> None:
    """They are different events, however small the pages are."""
    await make(base, "a")
    await base.audit()
    made = await reserve(base, Reserve([RequestedLine("a", 1)], 60))
    await make(base, made.id)
    await base.audit()
    whole = await base.windows.read(1, 2, limit=100)
    paged = await read(base, 1, 2, ALL_TYPES, page=1)
    assert paged == whole
    assert [e.type for e in whole if e.position.id == made.id] == [
        EventType.RESERVATION, EventType.PRODUCT, EventType.MOVEMENT,
    ]  # fmt: skip


async def test_lines_closed_by_sql_are_told(base: Base) -> None:
    """DELETE by hand releases what was held, and that is told as well."""
    await make(base, "a")
    made = await reserve(base, Reserve([RequestedLine("a", 1)], 60))
    await base.audit()
    await base.run("DELETE FROM products WHERE id = 'a'")
    await base.audit()
    [found] = await told(base, 1, 2)
    assert (found["id"], found["version"], found["reservation"]["status"]) == (made.id, 2, "released")
