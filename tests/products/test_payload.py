"""The bytes of a product, and of a reservation."""

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from app.products.payload import product_payload, reservation_payload
from app.products.product import ID_PATTERN, MAX_INTEGER, MAX_NAME_LENGTH, Product
from app.products.reservation import RESERVATION_ID_PATTERN, HeldLine, Reservation, Status

_NUMBERS = st.integers(0, MAX_INTEGER)
_ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))])
_MOMENTS = st.builds(
    lambda us, zone: (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).astimezone(zone),
    st.integers(0, 250_000_000_000_000_000),
    _ZONES,
)


@given(
    st.builds(
        Product,
        id=st.from_regex(ID_PATTERN, fullmatch=True).map(str.strip),
        name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=MAX_NAME_LENGTH),
        price_cents=_NUMBERS,
        stock=_NUMBERS,
        reorder_point=_NUMBERS,
        version=st.integers(1, 2**63 - 1),
        created_at=_MOMENTS,
        updated_at=_MOMENTS,
        reserved=st.none() | _NUMBERS,
    )
)
def test_payload_is_compact_json_of_every_field(product: Product) -> None:
    """Any product's bytes are what a JSON writer would make of its fields, in their order, and of the units that are free.

    A database that has no reservations yet has neither held nor free units.
    """
    fields = {name: getattr(product, name) for name in Product.__slots__}
    if fields["reserved"] is None:
        del fields["reserved"]
    else:
        fields["available"] = max(0, product.stock - fields["reserved"])
    for name in ("created_at", "updated_at"):
        fields[name] = fields[name].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert product_payload(product) == json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


_IDS = st.from_regex(ID_PATTERN, fullmatch=True).map(str.strip)
_LINES = st.builds(HeldLine, product_id=_IDS, quantity=_NUMBERS, committed=_NUMBERS, released=_NUMBERS, expired=_NUMBERS)


@given(
    st.builds(
        Reservation,
        id=st.from_regex(RESERVATION_ID_PATTERN, fullmatch=True).map(str.strip),
        reference=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
        status=st.sampled_from(Status),
        expires_at=_MOMENTS,
        version=st.integers(1, 2**63 - 1),
        created_at=_MOMENTS,
        updated_at=_MOMENTS,
        lines=st.lists(_LINES, max_size=3),
    )
)
def test_a_reservation_is_compact_json_of_every_field(reservation: Reservation) -> None:
    """Any reservation's bytes are what a JSON writer would make of its fields and its numbered lines, in their order."""
    lines = [{"line": number} | asdict(line) for number, line in enumerate(reservation.lines)]
    fields = {name: getattr(reservation, name) for name in ("id", "reference", "status")} | {"lines": lines}
    for name in ("expires_at", "version", "created_at", "updated_at"):
        value = getattr(reservation, name)
        fields[name] = value if name == "version" else value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert reservation_payload(reservation) == json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
