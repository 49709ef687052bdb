"""The refusal of a partition by a node of a cluster."""

from redis.exceptions import AskError, ClusterCrossSlotError, ClusterDownError, MovedError, TryAgainError

from ..errors import StoreUnavailable

REFUSALS = (AskError, ClusterCrossSlotError, ClusterDownError, TryAgainError)
"""What a node of a cluster says before a command runs that it will not run; ``MOVED`` is an ``AskError`` to redis-py."""
_ELSEWHERE = (MovedError, ClusterDownError)
"""Those that mean that the keys have another owner, or none. The others come from the owner, while it gives the keys away."""


class Refusal(StoreUnavailable):
    """A node of a cluster says that it does not have these keys now, or not all of them. Nothing was done."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"the node refuses this partition: {type(error).__name__} {error}")
        self.elsewhere = isinstance(error, _ELSEWHERE)
        """Whether the node is not their owner, so that the map which led here is wrong."""
