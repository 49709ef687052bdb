"""A client that is made of the description takes the README's tour on the running service."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from app.api.application import build
from app.api.metrics import RequestStats
from app.server.known_heads import KnownHeads
from tests.api.real import PATIENT, application
from tests.api.wire import listen_for
from tests.openapi.tools import needed

_PACKAGE = "larder_client_of_the_tests"


class Client:
    """The generated package, with one of its clients."""

    def __init__(self, package: Path, url: str) -> None:
        self._package = package.name
        self.models = import_module(f"{self._package}.models")
        self._client = import_module(f"{self._package}").Client(base_url=url)

    def _operation(self, tag: str, name: str) -> ModuleType:
        return import_module(f"{self._package}.api.{tag}.{name}")

    async def call(self, tag: str, operation: str, *path: str, **given: Any) -> Any:
        """Call an operation: the response, with its status, headers and parsed body."""
        return await self._operation(tag, operation).asyncio_detailed(*path, client=self._client, **given)

    async def aclose(self) -> None:
        await self._client.get_async_httpx_client().aclose()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package, made of the document that the service gives."""
    needed("openapi_python_client")
    directory = tmp_path_factory.mktemp("client")
    document, configuration = directory / "openapi.json", directory / "config.json"
    document.write_text(json.dumps(build("1.2.3", RequestStats(), open_to_all=True).openapi()), encoding="utf-8")
    configuration.write_text(json.dumps({"post_hooks": []}), encoding="utf-8")
    made = subprocess.run(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning", "--meta", "none"),
            *("--path", document, "--config", configuration, "--output-path", directory / _PACKAGE),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert made.returncode == 0, made.stdout + made.stderr
    sys.path.insert(0, str(directory))
    yield directory / _PACKAGE
    sys.path.remove(str(directory))


@pytest.fixture
async def client(package: Path, database_url: str, redis_url: str, namespace: str) -> AsyncIterator[Client]:
    hosts = {"ALLOWED_HOSTS": "larder"}
    async with (
        application(database_url, redis_url, namespace, **PATIENT | hosts) as app,
        listen_for(app, KnownHeads) as port,
    ):
        client = Client(package, f"http://127.0.0.1:{port.number}")
        yield client
        await client.aclose()


async def test_tour(client: Client) -> None:
    """What the README does with curl, a client does that knows nothing but the description; numbers, times and errors are
    typed.
    """
    models = client.models
    whole = models.WholeProduct(name="Tray", price_cents=1_500)
    created = await client.call("products", "put_product", "tray-1", body=whole)
    assert (created.status_code, created.headers["ETag"], created.parsed.name) == (201, '"1"', "Tray")
    counted = await client.call("stock", "put_stock", "tray-1", body=models.StockCount(stock=50))
    assert (counted.status_code, counted.parsed.stock, counted.parsed.version) == (200, 50, 2)
    read = await client.call("products", "get_product", "tray-1")
    assert read.parsed == counted.parsed
    assert read.parsed.updated_at == datetime.fromisoformat(json.loads(read.content)["updated_at"])
    assert (await client.call("products", "get_product", "tray-1", if_none_match='"2"')).status_code == 304
    stale = await client.call(
        "products", "patch_product", "tray-1", body=models.ProductPatch(price_cents=1_400), if_match='"1"'
    )
    assert (stale.status_code, stale.parsed.current_version) == (412, 2)
    patched = await client.call(
        "products", "patch_product", "tray-1", body=models.ProductPatch(price_cents=1_400), if_match='"2"'
    )
    assert (patched.status_code, patched.parsed.price_cents) == (200, 1_400)
    many = await client.call("products", "list_products", id=["tray-1", "nothing"])
    assert ([one.id for one in many.parsed.items], many.parsed.missing) == (["tray-1"], ["nothing"])
    page = await client.call("products", "list_products", q="tr", limit=10)
    assert ([one.id for one in page.parsed.items], page.parsed.next_) == (["tray-1"], None)
    sale = models.StockAdjustment(delta=-3, reason=models.StockAdjustmentReason.SALE, reference="order-17")
    sold = [await client.call("stock", "adjust_stock", "tray-1", body=sale, idempotency_key="order-17") for _ in range(2)]
    assert [one.parsed.product.stock for one in sold] == [47, 47]
    assert [one.headers.get("Idempotent-Replayed") for one in sold] == [None, "true"]
    lines = models.StockAdjustments(
        lines=[models.AdjustmentLine(product_id="tray-1", delta=-100)], reason=models.StockAdjustmentsReason.SALE
    )
    short = await client.call("stock", "adjust_stocks", body=lines)
    assert (short.status_code, short.parsed.shortages[0].available) == (409, 47)
    ledger = await client.call("stock", "list_product_movements", "tray-1", limit=5)
    assert [one.delta for one in ledger.parsed.items] == [-3, 50, 0]
    wrong = await client.call("products", "create_product", body=models.NewProduct(name=" ", price_cents=1))
    assert (wrong.status_code, wrong.parsed.errors[0].pointer) == (422, "#/name")
    batch = models.Batch(items=[{"id": "mug", "name": "Mug", "price_cents": 1}, {"id": "mug"}])
    results = (await client.call("products", "batch_products", body=batch)).parsed.results
    assert [result.outcome for result in results] == ["created", "refused"]
    gone = await client.call("products", "delete_product", "tray-1")
    assert gone.status_code == 204
    missing = await client.call("products", "get_product", "tray-1")
    assert (missing.status_code, missing.parsed.missing) == (404, ["tray-1"])
    assert (await client.call("operation", "get_readiness")).status_code == 200
