"""The composition root. It makes every part of the service, opens them in order, and closes them in reverse order."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from fastapi import FastAPI

from app.access.key_file import KeyFile
from app.access.key_ring import KeyRing, KeySource
from app.access.key_table import KeyTable
from app.access.rates import NO_LIMIT
from app.access.rates import Limits as AccessLimits
from app.api.accepting import Decoder
from app.api.admission import Admission
from app.api.application import build
from app.api.context import STATE, Larder
from app.api.load import Load, measure
from app.api.metrics import RequestStats
from app.api.worker_metrics import SharedMetrics
from app.api.writing import StoredRendering
from app.cache import Entity, Limits, open_caches
from app.cache.background import in_background
from app.cache.history import CheckEpoch
from app.cache.policies import WritePolicy
from app.cache.stats import Stats
from app.cache.write_through import WriteThrough
from app.feed.feed import Feed
from app.feed.windows import Windows
from app.places import primary_of, redis_options
from app.postgres.database import Database, Shares
from app.products.acceptance import Acceptance
from app.products.accepted import AcceptedStats
from app.products.accepted_service import AcceptedWrites
from app.products.applier import Applier, count, keep_measured
from app.products.main_places import MAIN_PLACES
from app.products.pair import Pair
from app.products.pair_watch import PairWatch
from app.products.paired import PairedProducts
from app.products.payload import SCHEMA
from app.products.pruner import Pruner
from app.products.service import Products, WriteLimits
from app.products.source import PRODUCTS, ProductSource
from app.products.tidier import Tidier
from app.products.transaction import Committed
from app.products.transactions import ProductTransactions
from app.settings import PRODUCTS_CACHE, Settings, SettingsError, names_in, namespace_of
from app.telemetry.spans import Spans
from app.telemetry.telemetry import Telemetry

_log = logging.getLogger("larder")

Part = TypeVar("Part", Limits, WriteLimits)


def create_app(settings: Settings, shared: SharedMetrics | None = None) -> FastAPI:
    """Return the application. Its connections are opened when it starts, and closed when it stops.

    Args:
        settings: the settings that it runs with.
        shared: the metrics of all workers, if there are several on this address.
    """
    requests = RequestStats()
    spans = open_spans(settings)
    telemetry = Telemetry(spans, trace_percent=settings.trace_percent, line_percent=settings.log_requests_percent)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Larder]]:
        async with AsyncExitStack() as opened:
            if spans is not None:
                opened.push_async_callback(asyncio.to_thread, spans.close)
            larder = await opened.enter_async_context(running(settings, requests, shared, telemetry, app))
            app.state.larder = larder
            yield {STATE: larder}

    return build(
        version("larder"),
        requests,
        lifespan,
        open_to_all=settings.access == "open",
        docs=settings.docs,
        cors_origins=names_in(settings.cors_origins),
        telemetry=telemetry,
    )


def open_spans(settings: Settings) -> Spans | None:
    """Return where traces are sent; ``None`` if they are off.

    Raises:
        SettingsError: the packages for it are not installed.
    """
    if not settings.traces_url:
        return None
    try:
        from app.telemetry.otlp import OtlpSpans  # noqa: PLC0415 - an optional extra, imported only when it is used
    except ImportError as error:
        raise SettingsError(
            f"LARDER_TRACES_URL needs the extra larder[traces]: install it, or unset the variable ({error})"
        ) from error
    return OtlpSpans(settings.traces_url, version("larder"))


@asynccontextmanager
async def running(
    settings: Settings,
    requests: RequestStats | None = None,
    shared: SharedMetrics | None = None,
    telemetry: Telemetry | None = None,
    app: FastAPI | None = None,
) -> AsyncIterator[Larder]:
    """Open every part of the service, without HTTP. ``app`` is the application that will serve it, if there is one."""
    telemetry = telemetry or Telemetry()
    async with AsyncExitStack() as opened:
        database = open_database(settings)
        opened.push_async_callback(database.close)
        caches = await opened.enter_async_context(
            open_caches(
                database, redis_options(settings), [products_of(settings)], limits=cache_limits(settings), tracer=telemetry
            )
        )
        cache = caches[PRODUCTS]
        check_epoch = cache.history.record
        accepting = Accepting(settings, app) if settings.accept_writes else None
        pair = await opened.enter_async_context(watched_pair(settings, database, cache.stats))
        transactions = ProductTransactions(
            database,
            attempts=settings.transaction_attempts,
            history=cache.history,
            decode=accepting.decode if accepting else None,
            on_accepted=accepting.count if accepting else None,
            pair=pair,
        )
        source = ProductSource(database)
        parts = cache.protocol, source, transactions, write_limits(settings), telemetry
        products = PairedProducts(pair, *parts) if pair is not None else Products(*parts)
        opened.push_async_callback(products.aclose)
        windows = Windows(database, settings.settle_margin_ms, check_epoch)
        feed = Feed(windows, cache.stats)
        opened.push_async_callback(feed.aclose)
        pruner = pruner_of(settings, transactions, windows, cache.stats)
        await opened.enter_async_context(in_background("pruner", pruner.run()))
        tidier = tidier_of(settings, products, source, cache.stats)
        if tidier is not None:
            await opened.enter_async_context(in_background("tidier", tidier.run()))
        ring = key_ring(settings, database, check_epoch)
        if ring is not None:
            await ring.renew()  # so that the first requests are admitted, if the keys can be read
            await opened.enter_async_context(in_background("key ring", ring.run()))
        load = Load(settings.lag_target_ms / 1000)
        await opened.enter_async_context(in_background("load measurement", measure(load, products)))
        larder = Larder(
            settings,
            products,
            feed,
            cache.protocol,
            caches.store,
            caches.stats,
            requests or RequestStats(),
            admission(settings, ring),
            load,
            database,
            shared,
            accepting.open(database, cache.protocol, transactions, check_epoch, pair) if accepting else None,
            tidier,
            pair,
            telemetry=telemetry,
        )
        if accepting is not None:
            await opened.enter_async_context(accepting.running(larder))
        if shared is not None:
            await opened.enter_async_context(in_background("tally", shared.keep(larder.own_metrics)))
        await opened.enter_async_context(in_background("recorder", larder.recorder.run()))
        yield larder


@asynccontextmanager
async def watched_pair(settings: Settings, database: Database, stats: Stats) -> AsyncIterator[Pair | None]:
    """Yield the buckets that this pair holds, kept up to date; ``None`` if the service holds all products."""
    if not settings.buckets:
        yield None
        return
    pair = Pair(settings.buckets)
    watch = PairWatch(pair, database, stats)
    await watch.renew()
    async with in_background("pair watch", watch.run()):
        yield pair


class Accepting:
    """The parts that accept writes and apply them later."""

    def __init__(self, settings: Settings, app: FastAPI | None) -> None:
        self._settings = settings
        # Without HTTP, accepted writes are still applied, and the endpoints still decode them.
        self._app = app or build(version("larder"), RequestStats())
        self.stats = AcceptedStats()
        self.decode = Decoder(self._app, lambda request, render: StoredRendering(request, render, every=True))

    def count(self, committed: Committed) -> None:
        """Count the accepted writes of a transaction."""
        count(self.stats, committed)

    def open(
        self,
        database: Database,
        cache: WriteThrough,
        transactions: ProductTransactions,
        check_epoch: CheckEpoch,
        pair: Pair | None,
    ) -> AcceptedWrites:
        """Return the accepted writes of the database."""
        self._acceptance = Acceptance(database, check_epoch, self.stats, queue_limit=self._settings.queue_limit, pair=pair)
        return AcceptedWrites(
            cache,
            transactions,
            self._acceptance,
            self.decode,
            self.stats,
            request_timeout_ms=self._settings.request_timeout_ms,
        )

    @asynccontextmanager
    async def running(self, larder: Larder) -> AsyncIterator[None]:
        """Apply accepted writes in the background, and finish those that are being accepted at the end."""
        self._app.state.larder = larder
        assert larder.accepted is not None  # noqa: S101 - this object made it
        counted = next(iter(larder.stats.values()))
        applier = Applier(larder.accepted.apply, self._acceptance.mark_failed, self.stats, counted)
        async with (
            in_background("backlog measurement", keep_measured(self._acceptance.measure, counted)),
            in_background("applier", applier.run()),
        ):
            yield
        await larder.accepted.aclose()


def pruner_of(settings: Settings, transactions: ProductTransactions, windows: Windows, stats: Stats) -> Pruner:
    """Return what removes stored answers and old marks."""
    tasks = {
        "answers": partial(transactions.forget, age_s=settings.idempotency_keep_s),
        "marks of the change feed": partial(windows.forget, age_s=settings.feed_keep_s),
    }
    return Pruner(tasks, stats, pause_s=settings.idempotency_sweep_ms / 1000)


def tidier_of(settings: Settings, products: Products, source: ProductSource, stats: Stats) -> Tidier | None:
    """Return what tidies ended reservations, or ``None`` if it is switched off."""
    if not settings.reservation_tidy_ms:
        return None
    pause_s, keep_s = settings.reservation_tidy_ms / 1000, settings.reservation_keep_s
    return Tidier(products, source.reservations, stats, pause_s=pause_s, keep_s=keep_s)


def open_database(settings: Settings) -> Database:
    """Return the connections to PostgreSQL; each is opened when it is first used."""
    return Database(
        primary_of(settings),
        connections=settings.database_connections,
        connect_timeout_ms=settings.database_connect_timeout_ms,
        acquire_timeout_ms=settings.database_acquire_timeout_ms,
        statement_timeout_ms=settings.database_statement_timeout_ms,
        lock_timeout_ms=settings.database_lock_timeout_ms,
        connection_max_age_s=settings.database_connection_max_age_s,
    )


def key_ring(settings: Settings, database: Database, check_epoch: CheckEpoch) -> KeyRing | None:
    """Return the keys of this process; ``None`` in open mode."""
    if settings.access == "open":
        return None
    sources: list[KeySource] = [KeyTable(database, SCHEMA, check_epoch, time.monotonic)]
    if settings.keys_file:
        sources.append(KeyFile(Path(settings.keys_file)))
    return KeyRing(
        sources,
        limits=AccessLimits(
            settings.client_rate_per_s or NO_LIMIT,
            settings.client_keys_per_day or NO_LIMIT,
            settings.client_products_per_day or NO_LIMIT,
        ),
    )


def admission(settings: Settings, ring: KeyRing | None) -> Admission:
    """Return the rules by which requests are admitted."""
    hosts = names_in(settings.allowed_hosts)
    checked = hosts if hosts or settings.access == "open" else None
    return Admission(ring, allowed_hosts=checked, cors_origins=names_in(settings.cors_origins))


def write_limits(settings: Settings) -> WriteLimits:
    """Return the limits of the write path.

    Places for products whose rows are held take no connection of the main transactions, and at least two are left for them if
    there is more than one main transaction, so that stuck products have at most half.
    """
    connections = Shares.of(settings.database_connections).writes
    main_places = MAIN_PLACES if connections >= MAIN_PLACES + 2 else 1
    return _limits(WriteLimits, settings, main_places=main_places, product_places=connections - main_places)


def products_of(settings: Settings) -> Entity:
    """Return the products as the settings want them cached."""
    return replace(
        PRODUCTS,
        namespace=namespace_of(settings.cache_namespace, PRODUCTS_CACHE),
        ttl_s=settings.slot_ttl_s,
        absent_ttl_s=settings.absent_ttl_s,
        writes=WritePolicy(settings.write_policies.get(PRODUCTS_CACHE, WritePolicy.THROUGH)),
        bypassed=PRODUCTS_CACHE in names_in(settings.cache_off),
    )


def cache_limits(settings: Settings) -> Limits:
    """Return the limits of the caches. No request of Larder asks for a life of its own."""
    return _limits(Limits, settings, settle_timeout_ms=settings.request_timeout_ms, ttl_max_s=settings.slot_ttl_s)


def _limits(kind: type[Part], settings: Settings, **others: object) -> Part:
    """Return the limits of a part, taken from the settings of the same names and from ``others``."""
    named = {field.name: getattr(settings, field.name) for field in fields(kind) if field.name not in others}
    return kind(**named | others)
