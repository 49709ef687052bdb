"""A cluster whose instances draw another write policy for every transaction: the worst mixture of settings."""

import sys
from collections.abc import Mapping, Sequence

from tests.harness.cluster import Instance, larder


class DrawnPolicies:
    """A ``Program``: ``larder serve`` that draws from ``names``, separated by commas; from all policies if there are none."""

    def __init__(self, names: str = "") -> None:
        self._names = names

    def __call__(self, instance: Instance, database: str) -> tuple[Sequence[str], Mapping[str, str]]:
        _, settings = larder(instance, database)
        return (sys.executable, "-m", "tests.outages.drawn_serve"), {**settings, "LARDER_TEST_POLICIES": self._names}
