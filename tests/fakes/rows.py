"""What a PostgreSQL in memory holds: two tables, their rows and audit rows, transactions and snapshots."""

from collections.abc import Callable
from dataclasses import dataclass, field

NAMESPACE = "products.1"
SUPPLIERS = "suppliers.1"
"""The namespace of a second table."""


def table_of(name: str) -> str:
    """Return the table of a namespace or of a key: keys of the second table begin with its name."""
    return "suppliers" if name.startswith("suppliers") else "products"


class Refused(Exception):
    """A statement failed because of its table; its session is fine."""


class Aborted(Exception):
    """The transaction was rolled back: nothing of it will ever be seen."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row, or the tombstone of one."""

    version: int
    content: str
    deleted: bool
    changed_xid: int


@dataclass(slots=True)
class AuditRow:
    """A namespace's audit row; times are the database host's clock, in seconds."""

    announced: int = 0
    completed: int = 0
    fenced_until: float = float("-inf")
    other_until: float = float("-inf")
    server: str = ""
    epoch: str = ""
    barred: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """Everything a dump or a standby holds, as of one moment."""

    rows: dict[str, Row]
    audits: dict[str, AuditRow]
    next_xid: int
    marks: frozenset[str]


@dataclass(frozen=True, slots=True)
class Moment:
    """A snapshot: rows as of when it was taken, the oldest transaction it may lack, and the epoch."""

    epoch: str
    xmin: int
    rows: dict[str, Row]
    truncations: int


@dataclass(eq=False, slots=True)
class Transaction:
    """A transaction in progress, with the rows that it has locked and changed."""

    client: str
    incarnation: int
    mark: str = ""
    """Names the transaction for retries, like an idempotency key, and is committed with it."""
    xid: int | None = None
    changed: dict[str, Row] = field(default_factory=dict)
    over: bool = False


Change = Callable[[Row | None], str | None]
"""From a live row, or ``None``, to its new content, or ``None`` to delete it."""
