"""The whole service over tables and a Redis in memory: everything but the servers is real."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from app import main
from app.api.application import build
from app.api.context import Larder
from app.api.load import Load
from app.api.metrics import RequestStats
from app.cache.history import History
from app.cache.ports import HistorySource, Watermark
from app.cache.stats import Stats
from app.cache.write_through import Peeked, Read, WriteThrough
from app.feed.feed import Feed
from app.products.pair import Pair
from app.products.paired import PairedProducts
from app.products.service import Products
from app.settings import Settings
from tests.api.accepting import Serve
from tests.api.real import service as real_service
from tests.fakes.products import EPOCH, INCARNATION, MemoryProducts, MemoryTransactions
from tests.fakes.redis import Fence, RedisServer
from tests.fakes.store import MemoryStore
from tests.fakes.windows import MemoryWindows
from tests.fakes.wire import Direct

LIMIT = 8_192


class Front:
    """Stands before the service: fails its calls, changes how reads were served, and records the calls that it lets through."""

    def __init__(self, products: Products, slots: dict[str, tuple[bytes, float]]) -> None:
        self._products = products
        self.slots = slots
        self.fault: Exception | None = None
        """Raised by every call while set."""
        self.during: Callable[[], None] | None = None
        """What happens while a call is carried out."""
        self.served: dict[str, Read] = {}
        """Status and detail of reads by id, or of all others under an empty id."""
        self.hot = False
        """Whether the hot read finds what is cached; else every read reaches the endpoints."""
        self.held: list[Callable[[], None]] | None = None
        """The hot read's answers while it is a list: called by the test, each in its time."""
        self.reads: list[dict[str, Any]] = []
        """What each read asked for."""

    @property
    def longest_wait_s(self) -> float:
        return self._products.longest_wait_s

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if self.fault is not None:
            raise self.fault
        method: Callable[..., Any] = getattr(self._products, name)
        return method if self.during is None else partial(self._called, method)

    def _called(self, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if self.during is not None:
            self.during()
        return method(*arguments, **named)

    def peek(self, product_id: str, then: Callable[[Peeked], None]) -> None:
        if not self.hot or self.fault is not None:
            asyncio.get_running_loop().call_soon(then, None)
        elif self.held is None:
            self._products.peek(product_id, then)
        else:
            held = self.held
            self._products.peek(product_id, lambda found: held.append(partial(then, found)))

    async def get(self, product_id: str, **wanted: Any) -> Read:
        self.reads.append(wanted)
        return self._as_served(await self.__getattr__("get")(product_id, **wanted))

    async def get_many(self, ids: list[str], **wanted: Any) -> list[Read]:
        self.reads.append(wanted)
        return [self._as_served(read) for read in await self.__getattr__("get_many")(ids, **wanted)]

    def _as_served(self, read: Read) -> Read:
        given = self.served.get(read.state.key) or self.served.get("")
        return replace(given, state=read.state) if given else read


@dataclass(slots=True)
class Clock:
    """The clock of what is shared for a while; it stands still unless a test moves it."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class Database:
    """A database that answers a ping, or fails as it is told."""

    fault: Exception | None = None

    statements: int = 0
    waiting: int = 0

    async def ping(self) -> None:
        if self.fault is not None:
            raise self.fault

    async def proven(self) -> bool:
        return True


@dataclass(slots=True)
class Connected:
    """A store that is up, or not."""

    up: bool = True
    failures: int = 0
    near_slots: int = 0


@dataclass(frozen=True, slots=True)
class Service:
    """The application and what stands behind it."""

    app: FastAPI
    products: Front
    tables: MemoryProducts
    transactions: MemoryTransactions
    requests: RequestStats
    database: Database = field(default_factory=Database)
    store: Connected = field(default_factory=Connected)
    stats: Stats = field(default_factory=Stats)
    clock: Clock = field(default_factory=Clock)
    windows: MemoryWindows = field(default_factory=lambda: MemoryWindows(time.monotonic))


@pytest.fixture
def service() -> Service:
    return new_service()


def new_service(pair: Pair | None = None) -> Service:
    """The service with empty tables; ``pair`` has the buckets that it holds."""
    requests = RequestStats()
    settings = Settings.from_env(
        {"LARDER_ACCESS": "open", "LARDER_ALLOWED_HOSTS": "larder,testserver", "LARDER_BODY_LIMIT_BYTES": str(LIMIT)}
    )
    redis = RedisServer("redis", time.monotonic)
    redis.data.fence = Fence(redis.identity, EPOCH, INCARNATION, float("inf"))
    redis.data.watermark = Watermark(EPOCH, 1, INCARNATION, redis.identity)
    tables = MemoryProducts()
    transactions = MemoryTransactions(tables)
    history = History()
    history.record(EPOCH, 0.0)
    cache = WriteThrough(
        MemoryStore(lambda: redis, Direct(), random.Random(1)),
        tables,
        cast("HistorySource", None),  # nobody settles: the fence never lapses
        main.cache_limits(settings).config(),
        Stats(),
        history=history,
    )
    parts = cache, tables, transactions, main.write_limits(settings)
    products = Products(*parts) if pair is None else PairedProducts(pair, *parts)
    service = Service(build("1.2.3", requests), Front(products, redis.data.slots), tables, transactions, requests)
    service.app.state.larder = Larder(
        settings,
        cast("Products", service.products),
        Feed(service.windows, service.stats),
        service.database,
        service.store,
        {"products": service.stats},
        requests,
        main.admission(settings, None),
        Load(1.0),
        service.database,
        pair=pair,
        clock=service.clock,
    )
    return service


@pytest.fixture
def front(service: Service) -> Front:
    return service.products


@pytest.fixture
def tables(service: Service) -> MemoryProducts:
    return service.tables


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose errors are answers: what the application raises must not reach it."""
    transport = httpx.ASGITransport(app=service.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://larder") as client:
        yield client


@pytest.fixture
async def mug(client: httpx.AsyncClient) -> dict[str, object]:
    """A product that is there, at version 1."""
    body = {"id": "mug-blue", "name": "Blue mug", "price_cents": 1299, "stock": 40, "reorder_point": 10}
    answer = await client.post("/products", json=body)
    product: dict[str, object] = answer.json()
    return product


async def walk(client: httpx.AsyncClient, url: str) -> list[list[dict[str, Any]]]:
    """The pages of a list or ledger, each by the link of the one before; ``next`` and ``Link`` agree on every page."""
    pages = []
    while url:
        answer = await client.get(url)
        assert (answer.headers["Cache-Status"], answer.headers["Cache-Control"]) == ("larder; fwd=bypass", "no-store")
        pages.append(answer.json()["items"])
        url = link_of(answer)
        assert (answer.json()["next"] is None) == (not url)
        assert not url or url.endswith(f"after={answer.json()['next']}")
    return pages


def link_of(answer: httpx.Response) -> str:
    """Where the next page is, or nothing after the last one."""
    link: str = answer.headers.get("Link", "")
    assert not link or link.endswith('>; rel="next"')
    return link.partition(">")[0].removeprefix("<")


@pytest.fixture
def serve(database_url: str, redis_url: str, namespace: str) -> Serve:
    """Start an instance that accepts writes."""

    def start(**more: str) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        return real_service(database_url, redis_url, namespace, **{"ACCEPT_WRITES": "1"} | more)

    return start
