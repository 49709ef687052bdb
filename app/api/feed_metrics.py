"""The metrics of the change feed."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from app.feed.state import FeedState


def feed_families(state: FeedState) -> Iterator[Metric]:
    """Return the families of the feed. A gauge without a value has no sample."""
    for name, text, value in (
        ("followers", "Requests that follow the change feed.", state.followers),
        ("mark_age_seconds", "Seconds since the newest mark, which tells followers of changes, was made.", state.mark_age_s),
        ("lag_seconds", "Seconds for which the slowest follower has not fetched what it could have.", state.lag_s),
    ):
        yield GaugeMetricFamily(f"larder_feed_{name}", text, value)
