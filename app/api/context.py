"""The running service, and how the endpoints reach it from a request."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from app.access.key_ring import Caller
from app.api.access_stats import AccessStats
from app.api.admission import Admission
from app.api.fields import KnownHead
from app.api.load import Load
from app.api.metrics import DatabaseUse, LoadState, RequestStats, StoreHealth, WorkerMetrics, render
from app.api.once import CachedValue
from app.api.recorder import SILENT_S, Recorder, Watchable
from app.api.request_state import CALLER, NAMED, READING
from app.api.stock_glance import StockGlance
from app.api.worker_metrics import SharedMetrics
from app.cache.ports import Reading
from app.cache.stats import Stats
from app.feed.feed import Feed
from app.products.accepted import AcceptedStats
from app.products.accepted_service import AcceptedWrites
from app.products.pair import Pair
from app.products.reservation import HeldUnits
from app.products.service import Products
from app.products.tidier import Tidier
from app.settings import Settings
from app.telemetry.telemetry import Telemetry

STATE = "larder"
"""Key in the states of the lifespan and of the application under which the running service is found."""
_NO_STATE: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Larder:
    """The running service. The composition root puts it into ``app.state.larder``."""

    settings: Settings
    products: Products
    feed: Feed
    cache: Watchable
    """The cache of the products, which the probes and the recorder watch."""
    store: StoreHealth
    stats: Mapping[str, Stats]
    """The counters of the caches, by namespace."""
    requests: RequestStats
    admission: Admission
    load: Load
    database: DatabaseUse
    shared_metrics: SharedMetrics | None = None
    """The metrics of all workers, or ``None`` when this process is alone on its address."""
    accepted: AcceptedWrites | None = None
    """The accepted writes; ``None`` if writes are only answered when they are decided."""
    tidier: Tidier | None = None
    """What tidies ended reservations and counts what they hold; ``None`` if nothing does."""
    pair: Pair | None = None
    """The buckets that this pair holds; ``None`` if the service holds all products."""
    large_bodies: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a large body is parsed or a batch is checked, so that other requests are served between two of them."""

    known_heads: dict[bytes, KnownHead] = field(default_factory=dict)
    """Heads of writes that the server has parsed before, by all their bytes after the first line."""
    telemetry: Telemetry = field(default_factory=Telemetry)
    clock: Callable[[], float] = time.monotonic
    readiness: CachedValue[None] = field(init=False)
    """Whether PostgreSQL can be used, found out at most once a second."""
    recorder: Recorder = field(init=False)
    """What the dashboard shows, recorded by one of the workers."""
    stock_glance: StockGlance = field(init=False)
    _own_text: CachedValue[bytes] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "readiness", CachedValue(self.cache.ping, clock=self.clock))
        object.__setattr__(self, "_own_text", CachedValue(self._render_own, clock=self.clock))
        object.__setattr__(self, "stock_glance", StockGlance(self.products))
        counted = next(iter(self.stats.values()))
        object.__setattr__(self, "recorder", Recorder(self.settings, self.total, self.cache, counted, self.shared_metrics))

    async def metrics(self) -> bytes:
        """Return the metrics of all workers as text, made at most once a second."""
        if self.shared_metrics is not None:
            return self.shared_metrics.shown(self.own_metrics, render)
        return await self._own_text.value()

    async def _render_own(self) -> bytes:
        return render(self.own_metrics())

    def own_metrics(self) -> WorkerMetrics:
        """Return the live counters of this process."""
        return WorkerMetrics(
            self.requests,
            self.stats,
            self.store.failures,
            self.store.up,
            workers=1,
            access=AccessStats.of(self.admission),
            statements=self.database.statements,
            load=LoadState(self.load.pressure, self.products.longest_wait_s, self.database.waiting),
            accepted=AcceptedStats() if self.accepted is None else self.accepted.stats,
            keys_readable=self.admission.ring is None or self.admission.ring.readable,
            feed=self.feed.state,
            held=HeldUnits() if self.tidier is None else self.tidier.held,
            near_slots=self.store.near_slots,
        )

    def total(self) -> WorkerMetrics:
        """Return the counters of all workers. A worker that has not reported for a second does not count as alive."""
        own = self.own_metrics()
        return own if self.shared_metrics is None else self.shared_metrics.total(own, SILENT_S)


def larder_in(scope: Mapping[str, Any]) -> Larder:
    """Return the running service: from the request's state, where the server has put it, or else from the application."""
    larder: Larder | None = scope.get("state", _NO_STATE).get(STATE)
    # As an attribute it would first be looked for in vain.
    return scope["app"].state[STATE] if larder is None else larder


def larder_of(request: Request) -> Larder:
    """Return the running service."""
    return larder_in(request.scope)


def products_of(request: Request) -> Products:
    """Return the products of the running service."""
    return larder_of(request).products


def check_pair(request: Request, ids: Sequence[str]) -> None:
    """Check that all products of a request belong to this pair, and note their ids in the request's state.

    ``RequestRoute`` checks the noted ids again before a read is answered.

    Raises:
        NotHere, BucketMoving, SeveralPairs: as ``Pair.check``.
    """
    if (pair := larder_of(request).pair) is not None:
        pair.check(ids, writes=request.method != "GET")
        request.scope["state"][NAMED] = ids


def caller_of(request: Request) -> Caller:
    """Return the sender of an admitted request."""
    caller: Caller = request.scope["state"][CALLER]
    return caller


def reading_of(request: Request) -> Reading | None:
    """Return what the hot read found, if there was one."""
    reading: Reading | None = request.scope.get("state", {}).get(READING)
    return reading
