"""Where a write came from, and how one with an idempotency key is done once.

The transaction takes the key's advisory lock, looks for a stored answer, decides, and stores the answer beside the change.
A retry therefore finds both or neither, whoever died in between, and two at once are done one after the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.products.commands import Command, Effect
from app.products.errors import Refused


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller was answered. Its meaning belongs to whoever rendered it."""

    code: int
    body: bytes
    version_tag: str | None = None
    location: str | None = None


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The key of a request that is to be done once."""

    caller: str
    """Whose key it is: each caller has a space of keys."""
    key: str
    request_hash: bytes
    """Covers everything that makes the request: the same key with another hash is refused."""
    render: Callable[[Sequence[Effect] | Refused], Answer | None]
    """Makes the answer to be stored, within the transaction; ``None`` for a refusal that is not stored."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a write came from: the ids that the ledger records, and the idempotency key if one was sent."""

    request_id: str | None = None
    actor: str | None = None
    idempotency_key: IdempotencyKey | None = None


NO_ORIGIN = Origin()


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """A command and where it came from."""

    command: Command
    origin: Origin = NO_ORIGIN


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as it was stored, and the products whose present rows must be published before it is given again."""

    request_hash: bytes
    answer: Answer
    product_ids: Sequence[str]


class Replayed(Exception):
    """The request was done before, under its idempotency key; ``answer`` is what was answered then."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        super().__init__("the request was done before")
