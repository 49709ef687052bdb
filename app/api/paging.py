"""The query of GET /products: which of its two forms it is, and the cursors that carry a reader from page to page."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastapi import Request

from app.api import cursors
from app.api.models import ID_RULE, UNSTORABLE
from app.api.problems import Fault, invalid
from app.products.product import MAX_NAME_LENGTH, Position, is_product_id

MAX_IDS = 250
_FORM = 2
"""The list's form of cursor."""
_SHOWN = 80
_FILTERS = ("limit", "after", "q", "below_reorder_point")


@dataclass(frozen=True, slots=True)
class Named:
    """Products by id, in the order first sent, each once."""

    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of the list."""

    limit: int
    prefix: str
    below_reorder_point: bool
    after: Position | None

    @property
    def by_name(self) -> bool:
        """Whether the order is by name; otherwise it is by id."""
        return bool(self.prefix) and not self.below_reorder_point

    def cursor(self, end: Position) -> str:
        """Write where this page ended, bound to its filters."""
        return cursors.pack(_FORM, self.prefix, self.below_reorder_point, end.id, end.name_key)

    def position(self, cursor: str) -> Position | None:
        """Read a cursor; ``None`` when it is none of ours or belongs to other filters."""
        match cursors.unpack(cursor, _FORM):
            case [str(prefix), bool(below), str(product_id), str(name_key)]:
                ours = (prefix, below) == (self.prefix, self.below_reorder_point) and is_product_id(product_id)
                sound = not UNSTORABLE.search(name_key) and (self.by_name or not name_key)
                return Position(product_id, name_key) if ours and sound else None
        return None

    def next_link(self, cursor: str) -> str:
        """Write the Link header to the next page, with the filters of this one."""
        below = "true" if self.below_reorder_point else None
        query = {"limit": self.limit, "q": self.prefix or None, "below_reorder_point": below, "after": cursor}
        return cursors.next_link("/products", query)


def _named(ids: Sequence[str], names: set[str]) -> tuple[Named, list[Fault]]:
    faults = [
        Fault("cannot be combined with id: read many products, or list them", parameter=name) for name in sorted(names - {"id"})
    ]
    if len(ids) > MAX_IDS:
        faults.append(Fault(f"may be sent at most {MAX_IDS} times; {len(ids)} were sent", parameter="id"))
    faults += [
        Fault(f"{ID_RULE}; number {index + 1}, {product_id[:_SHOWN]!a}, is not", parameter="id")
        for index, product_id in enumerate(ids[:MAX_IDS])
        if not is_product_id(product_id)
    ]
    return Named(tuple(dict.fromkeys(ids))), faults


def _listed(values: dict[str, str]) -> tuple[Listed, list[Fault]]:
    faults = []
    prefix, below, cursor = values.get("q"), values.get("below_reorder_point"), values.get("after")
    limit = cursors.read_limit(values.get("limit"))
    if limit is None:
        faults.append(Fault(cursors.LIMIT_RULE, parameter="limit"))
    if prefix is not None and not (1 <= len(prefix) <= MAX_NAME_LENGTH and not UNSTORABLE.search(prefix)):
        faults.append(Fault(f"must have 1 to {MAX_NAME_LENGTH} characters, none of them a control character", parameter="q"))
    if below not in {None, "true", "false"}:
        faults.append(Fault("must be true or false", parameter="below_reorder_point"))
    listed = Listed(limit or cursors.DEFAULT_LIMIT, prefix or "", below == "true", None)
    if cursor is not None:
        after = listed.position(cursor)
        if after is None:
            faults.append(Fault("must be `next` of a page that was made with the same filters", parameter="after"))
        listed = replace(listed, after=after)
    return listed, faults


def product_query(request: Request) -> Named | Listed:
    """Read the query of GET /products.

    Raises:
        Problem: 422, a parameter is unknown, repeated, of the other form, or has no legal value.
    """
    pairs = cursors.pairs_of(request)
    names = {name for name, _ in pairs}
    faults = [
        Fault(
            "is not a parameter of this operation; it takes id, or limit, after, q and below_reorder_point",
            parameter=name[:_SHOWN],
        )
        for name in sorted(names - {"id", *_FILTERS})
    ]
    times = Counter(name for name, _ in pairs)
    faults += [Fault("may be sent only once", parameter=name) for name in _FILTERS if times[name] > 1]
    query: Named | Listed
    if "id" in names:
        query, more = _named([value for name, value in pairs if name == "id"], names)
    else:
        query, more = _listed(dict(pairs))
    faults += more
    if faults:
        raise invalid(faults)
    return query
