"""The origin of a write, and the rules by which a write with an idempotency key is done once.

The transaction takes the key's advisory lock, looks for a stored answer, decides, and stores the answer together with the
change. A retry therefore finds both or neither, even after a crash, and simultaneous requests are done one after another.
"""

from collections.abc import Callable, Sequence

from app.cache.tracing import Unit
from app.products.commands import Command, Effect
from app.products.errors import Refused
from app.products.reservation import Reservation
from app.products.values import value_class


@value_class(frozen=True, slots=True)
class Answer:
    """The answer that a caller got. Only the code that rendered it interprets it."""

    code: int
    body: bytes
    version_tag: str | None = None
    location: str | None = None


@value_class(frozen=True, slots=True)
class IdempotencyKey:
    """The key of a request that is to be done once."""

    caller: str
    """The owner of the key. Different callers may use the same key."""
    key: str
    request_hash: bytes
    """A hash of the whole request. The same key with another hash is refused."""
    render: Callable[[Sequence[Effect] | Reservation | Refused], Answer | None]
    """Returns the answer to store, within the transaction, or ``None`` for a refusal that is not stored."""


@value_class(frozen=True, slots=True)
class Origin:
    """The origin of a write: the ids that the ledger records, and the idempotency key if one was sent."""

    request_id: str | None = None
    actor: str | None = None
    idempotency_key: IdempotencyKey | None = None


NO_ORIGIN = Origin()


@value_class(frozen=True, slots=True)
class WriteRequest:
    """A command and its origin."""

    command: Command
    origin: Origin = NO_ORIGIN
    unit: Unit | None = None
    """The unit of work that waits for it (``app.cache.tracing``)."""


@value_class(frozen=True, slots=True)
class StoredAnswer:
    """A stored answer, and the products whose present rows must be published before it is sent again."""

    request_hash: bytes
    answer: Answer
    product_ids: Sequence[str]


class Replayed(Exception):
    """The request was done before, under its idempotency key; ``answer`` is the stored answer."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        super().__init__("the request was done before")
