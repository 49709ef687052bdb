"""What two scrapes of a running service say about its workload."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

_SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Scrape:
    """The counters of ``/metrics`` at one moment."""

    series: Mapping[str, list[tuple[Mapping[str, str], float]]]

    @classmethod
    def of(cls, text: str) -> "Scrape":
        """Read Prometheus text."""
        series: defaultdict[str, list[tuple[Mapping[str, str], float]]] = defaultdict(list)
        for line in text.splitlines():
            if found := _SERIES.match(line):
                series[found[1]].append((dict(_LABEL.findall(found[2] or "")), float(found[3])))
        return cls(series)

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of a family's series that have these labels."""
        return sum(value for found, value in self.series.get(name, []) if labels.items() <= found.items())


@dataclass(frozen=True, slots=True)
class Traffic:
    """What happened between two scrapes."""

    before: Scrape
    after: Scrape

    def count(self, name: str, **labels: str) -> float:
        """Return by how much a counter rose."""
        return self.after.total(name, **labels) - self.before.total(name, **labels)

    @property
    def reads(self) -> float:
        """Keys that were read through the cache."""
        return self.count("larder_cache_reads_total")

    @property
    def hit_ratio(self) -> float | None:
        """The share of them that were hits."""
        return self.count("larder_cache_reads_total", result="hit") / self.reads if self.reads else None

    @property
    def writes(self) -> float:
        """Requests of methods that change something, which had success."""
        return sum(
            value * sign
            for scrape, sign in ((self.after, 1), (self.before, -1))
            for labels, value in scrape.series.get("larder_http_requests_total", [])
            if labels.get("method") in ("PUT", "PATCH", "POST", "DELETE") and labels.get("status", "").startswith("2")
        )

    @property
    def reads_of_100(self) -> float:
        """The reads in a hundred requests. Raises ``ValueError``: nothing was requested between the scrapes."""
        if not self.reads + self.writes:
            raise ValueError("nothing was read or written between the two scrapes: take them further apart, at a busy time")
        return 100 * self.reads / (self.reads + self.writes)

    @property
    def payload(self) -> float | None:
        """Mean payload bytes of a state that was sent to be stored."""
        sent = sum(
            self.count("larder_cache_publishes_total", outcome=name) for name in ("stored", "kept", "empty", "lease_deleted")
        )
        return self.count("larder_cache_payload_bytes_total") / sent if sent else None

    def sentences(self) -> list[str]:
        """Return what the scrapes say."""
        publishes = self.count("larder_cache_publishes_total")
        said = [f"{self.reads:,.0f} keys read, {self.writes:,.0f} writes"]
        if self.hit_ratio is not None:
            said.append(f"hit ratio {self.hit_ratio:.3f}")
        if publishes:
            empty = self.count("larder_cache_publishes_total", outcome="empty")
            said.append(f"{100 * empty / publishes:.0f} % of the publishes found an empty slot")
        if self.payload is not None:
            said.append(f"{self.payload:,.0f} payload bytes each")
        said.append(f"{self.count('larder_cache_settles_total'):,.0f} writes settled")
        read = self.count("larder_cache_written_keys_total", read="yes")
        if sampled := self.count("larder_cache_written_keys_total"):
            said.append(f"{100 * read / sampled:.0f} % of the sampled writes were read before the key's next write")
        return said
