"""What the metrics show of the feed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FeedState:
    """What the metrics show of a process's feed."""

    followers: int = 0
    mark_age_s: float | None = None
    """Age of the newest mark; ``None`` if nobody follows, because marks are not read then."""
    lag_s: float = 0.0
    """For how long the slowest follower has not fetched what it could have."""

    def __add__(self, other: "FeedState") -> "FeedState":
        ages = [state.mark_age_s for state in (self, other) if state.mark_age_s is not None]
        return FeedState(self.followers + other.followers, min(ages, default=None), max(self.lag_s, other.lag_s))
