"""The metrics of accepted writes."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from app.products.accepted import AcceptedStats


def accepted_families(stats: AcceptedStats) -> Iterator[Metric]:
    """Return the families of accepted writes."""
    yield CounterMetricFamily("larder_accepted_writes", "Writes answered before they were decided.", stats.accepted)
    yield CounterMetricFamily("larder_accepted_writes_applied", "Accepted writes that were decided.", stats.applied)
    yield CounterMetricFamily("larder_accepted_writes_refused", "Those of them that the rules refused.", stats.refused)
    yield CounterMetricFamily("larder_accepted_writes_failed", "Accepted writes that cannot be decided.", stats.failed)
    yield GaugeMetricFamily("larder_accepted_backlog_rows", "Accepted writes that wait.", stats.rows)
    yield GaugeMetricFamily("larder_accepted_backlog_age_seconds", "Age of the first that waits.", stats.oldest_s)
    yield GaugeMetricFamily("larder_accepted_failed_rows", "Accepted writes kept for the operator.", stats.failed_rows)
