"""What a write does to the slots of the rows that it changed."""

from enum import StrEnum


class WritePolicy(StrEnum):
    """A namespace has one policy, and a single write may have another. Any mixture keeps every guarantee.

    docs/STRATEGIES.md says which one suits which table.
    """

    THROUGH = "through"
    """Lease empty slots before the transaction, publish after the commit. The slot is filled afterwards."""
    UPDATE = "update"
    """Publish after the commit. An empty slot stays empty."""
    ASIDE = "aside"
    """Delete the slot after the commit unless it is newer than the commit. It stays empty until the next read."""
    AROUND = "around"
    """Leave the slots to the next audit. The write always settles, which takes up to one audit interval and longer."""
