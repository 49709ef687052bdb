"""Retries: a request with a key is done once, and its answer is kept in the transaction that did it.

The transaction takes the key's advisory lock, looks for a kept answer, decides, and keeps the answer beside the change. So
a retry finds either both or neither, whoever died in between, and two at once are done one after the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.products.commands import Command, Effect
from app.products.errors import Refused


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller was told, to be told again: opaque to everything below the endpoints."""

    status: int
    body: bytes
    etag: str | None = None
    location: str | None = None


@dataclass(frozen=True, slots=True)
class Once:
    """A caller's wish that a request be done once."""

    caller: str
    """Whose keys these are; one space of keys for each caller."""
    key: str
    request_hash: bytes
    """Of everything that makes the request: the same key with another hash is refused."""
    render: Callable[[Sequence[Effect] | Refused], Answer | None]
    """Makes the answer, inside of the transaction; ``None`` for a refusal that is not kept."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A command with what the ledger keeps about the asking."""

    command: Command
    once: Once | None = None
    request_id: str | None = None
    actor: str | None = None

    @property
    def idempotency_key(self) -> str | None:
        """The key as the ledger keeps it."""
        return self.once.key if self.once else None


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer that was kept, and the products whose present rows must be published before it is given again."""

    request_hash: bytes
    answer: Answer
    product_ids: Sequence[str]


class Replayed(Exception):
    """Ends a use case whose request was done before: here is what was answered then."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        super().__init__("the request was done before")
