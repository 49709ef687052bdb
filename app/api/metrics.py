"""The metrics: requests by route and status, and the cache's counters.

Counting is an addition to a plain integer. The Prometheus text is made only when it is requested.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.api.accepted_metrics import accepted_families
from app.api.access_stats import AccessStats
from app.api.feed_metrics import feed_families
from app.api.reservation_metrics import reservation_families
from app.cache.ports import Outcome
from app.cache.stats import BUCKETS_S, Histogram, Stats
from app.feed.state import FeedState
from app.products.accepted import AcceptedStats
from app.products.reservation import HeldUnits

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


@dataclass(slots=True)
class ConnectionStats:
    """Counts of one process's connections. What is open and held is a state of the process; what was closed is a count."""

    open: int = 0
    large_body_bytes: int = 0
    closed: Counter[str] = field(default_factory=Counter)
    """Connections that the server closed or refused, by reason: the keys of ``CLOSED``."""

    def __add__(self, other: "ConnectionStats") -> "ConnectionStats":
        return ConnectionStats(
            self.open + other.open, self.large_body_bytes + other.large_body_bytes, self.closed + other.closed
        )


CLOSED = ("idle", "head_timeout", "body_timeout", "unread", "room", "full", "malformed-request", "overloaded")
"""The reasons for which the server closes or refuses a connection."""


class RequestStats:
    """Counts of one process's requests by method, route template and status, and their durations by route template."""

    __slots__ = ("connections", "durations", "requests")

    def __init__(self) -> None:
        self.connections = ConnectionStats()
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.durations: defaultdict[str, Histogram] = defaultdict(Histogram)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request. ``route`` is a template, not a path, so that the number of series is bounded."""
        self.requests[method if method in _METHODS else "other", route, status] += 1
        self.durations[route].observe(seconds)

    def without_state(self) -> "RequestStats":
        """Return the counts that remain when the process is dead: it has no connections any more."""
        counts = RequestStats() + self
        counts.connections = ConnectionStats(closed=self.connections.closed)
        return counts

    def __add__(self, other: "RequestStats") -> "RequestStats":
        both = RequestStats()
        both.connections = self.connections + other.connections
        both.requests = self.requests + other.requests
        for stats in (self, other):
            for route, histogram in stats.durations.items():
                both.durations[route] += histogram
        return both


@dataclass(slots=True)
class LoadState:
    """The load of a process; for several, the highest pressure and wait, and the sum of the callers that wait."""

    pressure: float = 0.0
    """How much has to be refused, from 0 to ``load.HIGHEST``."""
    longest_wait_s: float = 0.0
    """How long the oldest write that no transaction has taken has waited."""
    waiting: int = 0
    """Callers who wait for a connection to PostgreSQL."""

    def __add__(self, other: "LoadState") -> "LoadState":
        return LoadState(
            max(self.pressure, other.pressure),
            max(self.longest_wait_s, other.longest_wait_s),
            self.waiting + other.waiting,
        )


@dataclass(slots=True)
class WorkerMetrics:
    """Everything that ``/metrics`` shows, for one worker or for several together."""

    requests: RequestStats = field(default_factory=RequestStats)
    caches: Mapping[str, Stats] = field(default_factory=dict)
    """The caches' counters, by namespace."""
    store_failures: int = 0
    store_up: bool = True
    """Whether the store answers every worker."""
    workers: int = 0
    """Number of workers that are alive."""
    restarts: int = 0
    access: AccessStats = field(default_factory=AccessStats)
    statements: int = 0
    """Statements sent to PostgreSQL."""
    load: LoadState = field(default_factory=LoadState)
    keys_readable: bool = True
    """Whether every worker can check keys."""
    accepted: AcceptedStats = field(default_factory=AcceptedStats)
    taken_at: float = 0.0
    """When the counters were read, on the machine's monotonic clock, which its processes share."""
    feed: FeedState = field(default_factory=FeedState)
    held: HeldUnits = field(default_factory=HeldUnits)
    near_slots: int = 0
    """Number of slots that reads took from copies in their process."""

    @property
    def cache(self) -> Stats:
        """The counters of all caches together."""
        return sum(self.caches.values(), Stats())

    def __add__(self, other: "WorkerMetrics") -> "WorkerMetrics":
        return WorkerMetrics(
            self.requests + other.requests,
            {
                name: self.caches.get(name, Stats()) + other.caches.get(name, Stats())
                for name in dict.fromkeys([*self.caches, *other.caches])
            },
            self.store_failures + other.store_failures,
            self.store_up and other.store_up,
            self.workers + other.workers,
            self.restarts + other.restarts,
            self.access + other.access,
            self.statements + other.statements,
            self.load + other.load,
            self.keys_readable and other.keys_readable,
            self.accepted + other.accepted,
            max(self.taken_at, other.taken_at),
            self.feed + other.feed,
            self.held + other.held,
            self.near_slots + other.near_slots,
        )


class DatabaseUse(Protocol):
    """What a process does with its connections to PostgreSQL."""

    @property
    def statements(self) -> int:
        """Number of statements sent since the start."""

    @property
    def waiting(self) -> int:
        """Number of callers who wait for a connection."""


class StoreHealth(Protocol):
    """The state of the cache's connection to its store."""

    @property
    def up(self) -> bool:
        """Whether there is a connection. There is none while a failed one is being replaced."""

    @property
    def failures(self) -> int:
        """Number of times that the connection failed since the start."""

    @property
    def near_slots(self) -> int:
        """Number of slots that reads took from copies in their process since the start."""


Rows = Iterable[tuple[str, float]]
"""Values by the value of a label."""


def _histogram(name: str, text: str, label: str, rows: Iterable[tuple[str, Histogram]]) -> Metric:
    """Return a family of histograms by ``label``."""
    family = HistogramMetricFamily(name, text, labels=[label])
    for value, histogram in rows:
        _add_histogram(family, [value], histogram)
    return family


def _add_histogram(family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram) -> None:
    bounds = zip([*map(str, BUCKETS_S), "+Inf"], accumulate(map(float, histogram.counts)), strict=True)
    family.add_metric(labels, list(bounds), histogram.total_s)


def _requests(stats: RequestStats) -> Iterator[Metric]:
    requests = CounterMetricFamily("larder_http_requests", "Requests answered.", labels=("method", "route", "status"))
    for (method, route, status), count in sorted(stats.requests.items()):
        requests.add_metric((method, route, str(status)), count)
    yield requests
    text = "Time from a request's headers to the end of its answer."
    yield _histogram("larder_http_request_seconds", text, "route", sorted(stats.durations.items()))


@dataclass(frozen=True, slots=True)
class _CacheFamilies:
    """Makes the families of the caches, whose first label is the namespace."""

    caches: Mapping[str, Stats]

    def count(self, name: str, text: str, value: Callable[[Stats], float]) -> Metric:
        family = CounterMetricFamily(name, text, labels=("namespace",))
        for namespace, stats in self.caches.items():
            family.add_metric((namespace,), value(stats))
        return family

    def counts(self, name: str, text: str, label: str, rows: Callable[[Stats], Rows]) -> Metric:
        family = CounterMetricFamily(name, text, labels=("namespace", label))
        for namespace, stats in self.caches.items():
            for value, count in rows(stats):
                family.add_metric((namespace, value), count)
        return family

    def gauge(self, name: str, text: str, value: Callable[[Stats], float | None]) -> Metric:
        family = GaugeMetricFamily(name, text, labels=("namespace",))
        for namespace, stats in self.caches.items():
            if (found := value(stats)) is not None:
                family.add_metric((namespace,), found)
        return family

    def histogram(self, name: str, text: str, value: Callable[[Stats], Histogram]) -> Metric:
        family = HistogramMetricFamily(name, text, labels=("namespace",))
        for namespace, stats in self.caches.items():
            _add_histogram(family, (namespace,), value(stats))
        return family

    def calls(self, name: str, text: str) -> Metric:
        family = HistogramMetricFamily(name, text, labels=("namespace", "call"))
        for namespace, stats in self.caches.items():
            for call in ("store_read", "store_publish", "source_load"):
                _add_histogram(family, (namespace, call), getattr(stats, call))
        return family


def _reads(caches: _CacheFamilies, metrics: WorkerMetrics) -> Iterator[Metric]:
    yield caches.counts("larder_cache_reads", "Keys read through the cache, by result.", "result", _read_results)
    yield caches.count("larder_cache_loads", "Keys loaded from PostgreSQL.", lambda stats: stats.loads)
    yield caches.count("larder_cache_fills", "Empty slots filled after a read.", lambda stats: stats.fills)
    yield caches.count("larder_cache_refills", "Loads that writers began for emptied slots.", lambda stats: stats.refills)
    shared = "; all namespaces share them"
    text = f"Connections to Redis given up{shared}."
    yield caches.count("larder_cache_store_failures", text, lambda _: metrics.store_failures)
    text = f"Slots that Redis did not send, because the process had copies{shared}."
    yield caches.count("larder_cache_near_slots", text, lambda _: metrics.near_slots)
    text = f"1 while Redis answers every worker, 0 while a worker does not use its connections{shared}."
    yield caches.gauge("larder_cache_store_up", text, lambda _: int(metrics.store_up))
    yield caches.calls("larder_cache_call_seconds", "Duration of the cache's round trips.")


def _read_results(stats: Stats) -> Rows:
    return (
        ("hit", stats.hits),
        ("miss", stats.misses),
        ("bypass", stats.bypasses),
        ("refresh", stats.refreshes),
        ("unverified", stats.unverified),
    )


def _writes(caches: _CacheFamilies) -> Iterator[Metric]:
    yield caches.counts("larder_cache_publishes", "Slots published to, by outcome.", "outcome", _outcomes)
    text = "Sampled writes, by whether the key was read before its next write."
    yield caches.counts("larder_cache_written_keys", text, "read", _sampled)
    text = "Payload bytes sent to Redis to be stored."
    yield caches.count("larder_cache_payload_bytes", text, lambda stats: stats.payload_bytes)
    text = "Writes that had to wait until no reader could see old data."
    yield caches.count("larder_cache_settles", text, lambda stats: stats.settles)
    text = "Settling writes that reached their deadline."
    yield caches.count("larder_cache_settle_timeouts", text, lambda stats: stats.settle_timeouts)
    yield caches.histogram("larder_cache_settle_seconds", "How long settling took.", lambda stats: stats.settle_wait)


def _outcomes(stats: Stats) -> Rows:
    outcomes = [(outcome.name.lower(), stats.publishes[outcome]) for outcome in Outcome]
    return [*outcomes, ("failed", stats.publish_failures)]


def _sampled(stats: Stats) -> Rows:
    return [(read, stats.written_keys[read]) for read in ("yes", "no")]


def _audits(caches: _CacheFamilies, now: float) -> Iterator[Metric]:
    yield caches.count("larder_cache_audits", "Audits finished.", lambda stats: stats.audits)
    yield caches.count("larder_cache_audit_failures", "Audits given up.", lambda stats: stats.audit_failures)
    text = "Audits that set no fence because another server or namespace is trusted."
    yield caches.count("larder_cache_audit_deferrals", text, lambda stats: stats.audit_deferrals)
    text = "Unexpected errors that failed no request."
    yield caches.count("larder_cache_unexpected_errors", text, lambda stats: stats.unexpected)
    yield caches.histogram("larder_cache_audit_seconds", "How long an audit took.", lambda stats: stats.audit_duration)
    yield caches.counts("larder_cache_repairs", "Slots that audits deleted, by cause.", "cause", _repairs)
    yield caches.count("larder_cache_audited_rows", "Rows that audits compared.", lambda stats: stats.repairs.checked)
    yield caches.count("larder_cache_clean_starts", "Times the cache was started clean.", lambda stats: stats.clean_starts)
    yield caches.count("larder_cache_adoptions", "New epochs announced.", lambda stats: stats.adoptions)
    text = "Seconds since one of the workers finished an audit."
    yield caches.gauge("larder_cache_audit_age_seconds", text, lambda stats: _age_s(stats.last_audit, now))
    text = "Seconds since one of the workers last read under a live fence."
    yield caches.gauge("larder_cache_proof_age_seconds", text, lambda stats: _age_s(stats.last_proven, now))


def _repairs(stats: Stats) -> Rows:
    found = stats.repairs
    return ("older", found.older), ("other_epoch", found.other_epoch), ("lease", found.leases)


def _age_s(moment: float | None, now: float) -> float | None:
    return None if moment is None else now - moment


def _access(stats: AccessStats) -> Iterator[Metric]:
    for name, text, label, counts in (
        ("larder_client_requests", "Requests admitted, by the client of the key.", "client", stats.admitted),
        ("larder_client_requests_limited", "Requests refused because of the client's rate.", "client", stats.limited),
        ("larder_requests_refused", "Requests refused before their bodies were read.", "reason", stats.refused),
    ):
        family = CounterMetricFamily(name, text, labels=(label,))
        for value, count in sorted(counts.items()):
            family.add_metric((value,), count)
        yield family


def _connections(stats: ConnectionStats) -> Iterator[Metric]:
    yield GaugeMetricFamily("larder_connections", "Connections of clients.", stats.open)
    yield GaugeMetricFamily(
        "larder_large_body_bytes",
        "Bytes of unanswered request bodies in memory, beyond the first 16 KiB of each.",
        stats.large_body_bytes,
    )
    closed = CounterMetricFamily(
        "larder_connections_closed", "Connections that the server closed or refused, by reason.", labels=("reason",)
    )
    for reason in CLOSED:
        closed.add_metric((reason,), stats.closed[reason])
    yield closed


def _load(metrics: WorkerMetrics) -> Iterator[Metric]:
    yield CounterMetricFamily("larder_database_statements", "Statements sent to PostgreSQL.", metrics.statements)
    yield GaugeMetricFamily("larder_database_waiting", "Callers who wait for a connection.", metrics.load.waiting)
    yield GaugeMetricFamily(
        "larder_load_pressure", "Pressure of the busiest worker; above 0.5 it sheds requests.", metrics.load.pressure
    )


def _workers(metrics: WorkerMetrics) -> Iterator[Metric]:
    yield GaugeMetricFamily("larder_workers", "Processes that share this address and are alive.", metrics.workers)
    yield CounterMetricFamily("larder_worker_restarts", "Processes started in place of one that ended.", metrics.restarts)


@dataclass(frozen=True, slots=True)
class _Families(Collector):
    families: Iterable[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families


def render(metrics: WorkerMetrics, clock: Callable[[], float] = time.monotonic) -> bytes:
    """Return the metrics as Prometheus text. ``clock`` is the cache's clock."""
    caches = _CacheFamilies(metrics.caches)
    cache = chain(_reads(caches, metrics), _writes(caches), _audits(caches, clock()))
    registry = CollectorRegistry(auto_describe=False)
    clients = chain(_connections(metrics.requests.connections), _access(metrics.access))
    process = chain(
        feed_families(metrics.feed),
        reservation_families(metrics.held),
        _load(metrics),
        accepted_families(metrics.accepted),
        _workers(metrics),
    )
    registry.register(_Families(chain(_requests(metrics.requests), clients, cache, process)))
    return generate_latest(registry)
