"""What a person and a hostile web page can do with a browser."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from app.access.key_table import create_key
from app.access.keys import Scope, id_of, make_key
from app.main import create_app
from app.settings import Settings
from tests.browser.chromium import chromium
from tests.limits import open_database

MUG = {"id": "mug-blue", "name": "Blue mug", "price_cents": 1299, "stock": 40}
NO_INTERNET = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
REBOUND = "--host-resolver-rules=MAP evil.example 127.0.0.1"


@asynccontextmanager
async def served(**given: str) -> AsyncIterator[str]:
    """The service on a free loopback port; its URL."""
    settings = Settings.from_env({f"LARDER_{name}": value for name, value in given.items()})
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_config=None, lifespan="on"))
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(20):
            while not server.started:
                await asyncio.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def test_docs_work_with_a_key_and_without_internet(
    database_url: str, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    """Authorize takes a key; trying a stock update then works, offline, and the page's policy is never violated."""
    key, digest = make_key()
    database = open_database(database_url)
    await create_key(database, id_of(key), digest, "person", set(Scope))
    await database.close()
    async with (
        served(DATABASE_URL=database_url, REDIS_URL=redis_url, CACHE_NAMESPACE=namespace) as url,
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client,
        chromium(NO_INTERNET) as page,
    ):
        assert (await client.post("/products", json=MUG)).status_code == 201
        await page.open(f"{url}/docs")
        await page.click("button.authorize")
        await page.write(".auth-container input", key)
        await page.click(".auth-btn-wrapper button.authorize")
        await page.click(".auth-btn-wrapper button.btn-done")
        await page.click("#operations-stock-putStock .opblock-summary-control")
        await page.until("document.querySelector('#operations-stock-putStock').innerText.includes('stock:count')")
        await page.click("#operations-stock-putStock button.execute")
        await page.until("document.querySelector('#operations-stock-putStock .live-responses-table')")
        await page.until("document.querySelector('.live-responses-table tbody .response-col_status').innerText.includes('200')")
        await page.picture(tmp_path / "docs.png")
        assert (await client.get("/products/mug-blue")).json()["version"] == 2
        assert [message for message in page.messages if "Content Security Policy" in message] == []


async def test_page_whose_name_leads_to_this_machine_can_do_nothing(database_url: str, redis_url: str, namespace: str) -> None:
    """DNS rebinding: a page of a foreign name reaches an open service as its own origin, and may neither read nor write."""
    settings = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "CACHE_NAMESPACE": namespace, "ACCESS": "open"}
    async with served(**settings) as url, httpx.AsyncClient(base_url=url) as client, chromium(REBOUND) as page:
        assert (await client.post("/products", json=MUG)).status_code == 201
        port = url.rpartition(":")[2]
        await page.open(f"http://evil.example:{port}/livez")
        write = """fetch('/products/mug-blue/stock', {method: 'PUT', headers: {'Content-Type': 'application/json'},
            body: '{"stock": 0}'}).then(answer => answer.status)"""
        assert await page.evaluate("location.origin") == f"http://evil.example:{port}"
        assert await page.evaluate(write) == 421
        assert await page.evaluate("fetch('/products/mug-blue').then(answer => answer.status)") == 421
        # From its own origin to the machine's address: the write is refused, and the answer to a read is kept from the page.
        assert (
            await page.evaluate(
                write.replace("'/prod", f"'{url}/prod")
                .replace(".then(answer => answer.status)", "")
                .join(("", ".then(a => 'read', e => 'kept')"))
            )
            == "kept"
        )
        simple = f"fetch('{url}/products/mug-blue/stock', {{method: 'POST', body: '{{}}', mode: 'no-cors'}}).then(a => a.type)"
        assert await page.evaluate(simple) == "opaque"
        assert await page.evaluate(f"fetch('{url}/products/mug-blue').then(a => 'read', e => 'kept')") == "kept"
        assert (await client.get("/products/mug-blue")).json()["stock"] == 40


@pytest.mark.parametrize(
    "path", ["/docs", "/dashboard", "/problems/forbidden", "/docs/assets/swagger-ui.css", "/dashboard/assets/plots.js"]
)
async def test_pages_say_what_a_browser_may_do_with_them(database_url: str, redis_url: str, namespace: str, path: str) -> None:
    """No sniffing, no foreign frame, no referrer, and only the page's own script."""
    async with (
        served(DATABASE_URL=database_url, REDIS_URL=redis_url, CACHE_NAMESPACE=namespace) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        headers = (await client.get(path)).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        if "assets" not in path:
            policy = headers["Content-Security-Policy"]
            assert "frame-ancestors 'none'" in policy
            assert "script-src 'unsafe-inline'" not in policy
