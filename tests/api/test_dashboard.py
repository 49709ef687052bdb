"""The data of the dashboard, and its page."""

import json
import re
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.api.access_stats import AccessStats
from app.api.dashboard import document_of
from app.api.dashboard_models import DashboardData
from app.cache.errors import SourceUnavailable, StoreUnavailable
from app.cache.stats import Stats
from tests.api.conftest import Front, Service
from tests.api.problem import problem
from tests.fakes.products import MemoryProducts


async def data(client: httpx.AsyncClient, query: str = "") -> dict[str, Any]:
    """What the dashboard reads; it is as described."""
    answer = await client.get(f"/dashboard/data{query}")
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    DashboardData.model_validate_json(answer.content, strict=True)
    document: dict[str, Any] = answer.json()
    return document


async def test_data_follows_the_record(service: Service, client: httpx.AsyncClient) -> None:
    """The verdict, the incidents and the samples are those of the recorder; a reader gets the samples it has not seen."""
    recorder = service.app.state.larder.recorder
    await recorder.observe()
    assert (await data(client))["verdict"]["level"] == "well"
    service.store.up = False
    recorder._due = 0.0
    await recorder.observe()
    found = await data(client)
    assert found["verdict"]["level"] == "impaired"
    assert found["verdict"]["sentence"].startswith("Redis away since ")
    assert [(incident["trouble"], incident["ended"]) for incident in found["incidents"]] == [("redis-away", None)]
    assert (found["samples"]["next"], len(found["samples"]["items"])) == (1, 1)
    assert (await data(client, "?after=1"))["samples"] == {"next": 1, "items": []}


async def test_figures_are_those_of_the_counters(service: Service, client: httpx.AsyncClient) -> None:
    """Reads, what was saved, repairs, refused callers, and the state of connections."""
    larder = service.app.state.larder
    larder.admission.refused["rate-limited"] = 7
    service.database.statements = 11
    service.requests.connections.open = 3
    service.app.state.larder = replace(larder, stats={"n": Stats(hits=90, misses=10, settles=4, audits=5)})
    found = await data(client)
    assert {name: found["totals"][name] for name in ("reads", "saved", "statements", "settles", "audits")} == {
        "reads": 100,
        "saved": 90,
        "statements": 11,
        "settles": 4,
        "audits": 5,
    }
    assert found["refused"] == {"rate-limited": 7}
    assert found["queues"]["connections"] == 3


async def test_followers_of_the_feed_are_shown(service: Service, client: httpx.AsyncClient) -> None:
    """Their number, the age of the newest mark, and how far the slowest is behind; no age while nobody follows."""
    assert (await data(client))["feed"] == {"followers": 0, "mark_age_s": None, "lag_s": 0.0}
    feed = service.app.state.larder.feed
    with feed.following(await feed.start()):
        found = (await data(client))["feed"]
    assert (found["followers"], found["lag_s"]) == (1, 0.0)
    assert found["mark_age_s"] >= 0


async def test_settings_of_the_caches_are_shown(service: Service, client: httpx.AsyncClient) -> None:
    """A cache that is switched off, and a policy that is not the default, have their namespace beside them."""
    assert (await data(client))["caches"] == [{"namespace": "products.1", "writes": "through", "off": False}]
    larder = service.app.state.larder
    unusual = larder.settings.model_copy(update={"cache_off": "products", "writes": "products=around"})
    service.app.state.larder = replace(larder, settings=unusual)
    assert (await data(client))["caches"] == [{"namespace": "products.1", "writes": "around", "off": True}]


async def test_a_limited_client_is_shown_whoever_sends_most(service: Service) -> None:
    """Eight clients who send more do not hide the one that is refused."""
    access = AccessStats(Counter({f"c{number}": 100 + number for number in range(9)}), Counter(c0=7))
    total = replace(service.app.state.larder.total(), access=access)
    shown = document_of(service.app.state.larder.recorder.record(), total, 0, workers_wanted=1)["clients"]
    assert len(shown) == 9
    assert shown[-1] == {"name": "c0", "admitted": 100, "limited": 7}


@pytest.mark.usefixtures("mug")
async def test_data_has_low_stock_and_the_last_movements(client: httpx.AsyncClient) -> None:
    """Products below their reorder point, and movements of all products, the newest first."""
    for delta in (-1, -35):
        await client.post("/products/mug-blue/stock/adjustments", json={"delta": delta, "reason": "sale"})
    stock = (await data(client))["stock"]
    assert [(product["id"], product["stock"]) for product in stock["low"]] == [("mug-blue", 4)]
    assert [movement["delta"] for movement in stock["movements"]] == [-35, -1, 40]
    assert stock["held"] == {"units": 0, "over": 0, "oldest_s": 0.0}


@pytest.mark.usefixtures("mug")
async def test_data_has_held_units(client: httpx.AsyncClient, tables: MemoryProducts) -> None:
    """Those that ended reservations keep are told apart, until somebody needs them or the tidier comes."""
    for life_s in (60, 600):
        body = {"lines": [{"product_id": "mug-blue", "quantity": 2}], "expires_in_s": life_s}
        assert (await client.post("/reservations", json=body)).status_code == 201
    tables.now += timedelta(seconds=61)
    held = (await data(client))["stock"]["held"]
    assert (held["units"], held["over"], round(held["oldest_s"])) == (4, 2, 1)


@pytest.mark.parametrize("fault", [SourceUnavailable("gone"), StoreUnavailable("gone")])
async def test_data_is_there_without_postgresql(client: httpx.AsyncClient, front: Front, fault: Exception) -> None:
    """The stock is as it was, and never read here."""
    front.fault = fault
    assert (await data(client))["stock"] == {
        "at": None, "low": [], "movements": [], "held": {"units": 0, "over": 0, "oldest_s": 0.0},
    }  # fmt: skip


@pytest.mark.parametrize("query", ["?after=-1", "?after=x", "?after=1&after=2", "?limit=3", "?after=10000000000000"])
async def test_a_query_that_means_nothing_is_refused(client: httpx.AsyncClient, query: str) -> None:
    """Unknown, repeated or illegal parameters: 422, with their names."""
    refused = problem(await client.get(f"/dashboard/data{query}"), "invalid-request")
    assert '"parameter":"' in json.dumps(refused["errors"], separators=(",", ":"))


async def test_the_page_has_nothing_inline(client: httpx.AsyncClient) -> None:
    """Its policy permits only scripts and styles of files of its own, and the page has no others."""
    page = await client.get("/dashboard")
    policy = page.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"<style|<script(?![^>]* src=)| style=| on[a-z]+=", page.text)
    for name in ("dashboard.js", "plots.js", "dashboard.css", "icon.svg"):
        asset = await client.get(f"/dashboard/assets/{name}")
        assert asset.status_code == 200, name
        assert asset.headers["X-Content-Type-Options"] == "nosniff"
