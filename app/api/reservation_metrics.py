"""The metrics of reservations."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from app.products.reservation import HeldUnits


def reservation_families(held: HeldUnits) -> Iterator[Metric]:
    """Return the families of reservations."""
    yield GaugeMetricFamily("larder_reserved_units", "Units that reservations hold.", held.units)
    yield GaugeMetricFamily("larder_reserved_over_units", "Those of ended reservations, not yet given back.", held.over)
    text = "Seconds since the oldest of these reservations ended."
    yield GaugeMetricFamily("larder_reserved_over_age_seconds", text, held.oldest_s)
