"""What a node of a cluster says before a command runs that it will not run."""

from redis.exceptions import AskError, ClusterCrossSlotError, ClusterDownError, MovedError, TryAgainError

from ..errors import StoreUnavailable

REFUSALS = (AskError, ClusterCrossSlotError, ClusterDownError, TryAgainError)
"""The driver's errors; ``MOVED`` is an ``AskError`` to it."""
_ELSEWHERE = (MovedError, ClusterDownError)
"""Those that mean that the keys have another owner, or none. The others come from the owner, while it gives the keys away."""


class Refusal(StoreUnavailable):
    """A node of a cluster says that it does not have these keys now, or not all of them. Nothing was done."""

    elsewhere = False
    """Whether the node is not their owner, so that the map which led here is wrong."""
    words = ""
    """What the node said."""

    @classmethod
    def of(cls, error: Exception) -> "Refusal":
        """Return the refusal that an error of the driver is."""
        refusal = cls(f"the node refuses this partition: {type(error).__name__} {error}")
        refusal.words = str(error)
        refusal.elsewhere = isinstance(error, _ELSEWHERE)
        return refusal
