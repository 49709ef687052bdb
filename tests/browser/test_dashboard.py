"""The dashboard in Chromium: an outage is on the screen in time, everybody can read it, and a key is asked for.

``make pictures`` saves what is seen here into docs/dashboard.
"""

import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.private_servers import PostgresServer, RedisServer
from tests.browser.chromium import Page, chromium
from tests.browser.first_screen import AFTER, DURING, answer_at_a_glance
from tests.browser.operated import Operated, operated

IN_TIME_S = 2.0
AXE = Path(__file__).with_name("axe") / "axe.min.js"
NO_INTERNET = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
PICTURES = os.environ.get("PICTURES")
WELL = "document.body.dataset.level === 'well' && document.querySelector('#low-note').textContent"
LAMPS = "document.querySelector('#lamps').textContent"
pytestmark = [pytest.mark.alone, pytest.mark.slow]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures are saved."""
    directory = Path(PICTURES) if PICTURES else tmp_path / "pictures"
    directory.mkdir(exist_ok=True, parents=True)
    return directory


@asynccontextmanager
async def dashboard(operated_service: Operated) -> AsyncIterator[Page]:
    """The open page, when all is well."""
    async with chromium(NO_INTERNET, "--hide-scrollbars") as page:
        await page.call("Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)
        await page.open(f"{operated_service.url}/dashboard")
        await page.until(WELL)
        yield page


def says(*parts: str) -> str:
    """The condition that the sentence has these parts."""
    return " && ".join(f"document.querySelector('#sentence').textContent.includes({part!r})" for part in parts)


async def seconds_until(page: Page, condition: str) -> float:
    """Wait for a condition; the time that it took."""
    began = time.monotonic()
    await page.until(condition)
    return time.monotonic() - began


async def use_wrong_name(operated_service: Operated) -> None:
    """Send a request that is refused."""
    async with httpx.AsyncClient(base_url=operated_service.url, trust_env=False) as stranger:
        answer = await stranger.get("/products/mug-blue", headers={"Host": "elsewhere.example"})
    assert answer.status_code == 421


async def violations(page: Page) -> list[str]:
    """What axe finds wrong with the page: rules of WCAG 2.2 A and AA, and its best practices."""
    await page.evaluate(AXE.read_text(encoding="utf-8") + ";0")
    found: list[dict[str, Any]] = json.loads(
        await page.evaluate("axe.run(document, {resultTypes: ['violations']}).then(r => JSON.stringify(r.violations))")
    )
    return [f"{rule['id']}: {[node['target'] for node in rule['nodes']]}" for rule in found]


async def test_outages_are_on_the_screen_in_time(
    tmp_path: Path, private_postgres: PostgresServer, private_redis: RedisServer, pictures: Path
) -> None:
    """Redis, a worker and PostgreSQL go away, and come back: each is on the screen within 2 s, and so is its end."""
    took: dict[str, float] = {}
    # A busy machine must not look like an outage.
    patient = {"LARDER_REDIS_TIMEOUT_MS": "900"}
    async with (
        operated(tmp_path / "larder", private_postgres, private_redis, patient, workers=2) as service,
        dashboard(service) as page,
    ):
        await page.until("document.querySelectorAll('#low tbody tr, #movements tbody tr').length > 5")
        await page.evaluate("new Promise(done => setTimeout(done, 12000))")
        await page.picture(pictures / "well.webp", height=1560)
        assert await violations(page) == []
        await page.picture(pictures / "phone.webp", width=390, height=844)
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert await violations(page) == []
        await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        await page.picture(pictures / "dark.webp")
        assert await violations(page) == []
        await page.call("Emulation.setEmulatedMedia", features=[])

        await private_redis.kill()
        took["Redis away"] = await seconds_until(
            page, says("Redis away since", "reads come from PostgreSQL", "nothing is stale")
        )
        await page.evaluate("new Promise(done => setTimeout(done, 6000))")
        await use_wrong_name(service)
        await answer_at_a_glance(page, DURING, f"{LAMPS}.includes('host-not-allowed')")
        await page.picture(pictures / "redis-away.webp")
        await private_redis.restart()
        took["Redis back"] = await seconds_until(page, f"!({says('Redis away')})")
        await answer_at_a_glance(page, AFTER, f"{WELL} && {LAMPS}.includes('nobody')")

        service.kill_worker()
        took["worker dead"] = await seconds_until(page, says("1 of 2 workers away since", "nothing is stale"))
        await page.picture(pictures / "worker-dead.webp")
        await page.until(WELL)

        await private_postgres.kill()
        took["PostgreSQL away"] = await seconds_until(page, says("PostgreSQL away since", "writes fail with 503"))
        await page.until(says("reads fail with 503", "nothing is stale"))
        await page.evaluate("new Promise(done => setTimeout(done, 5000))")
        await page.picture(pictures / "postgresql-away.webp")
        assert await violations(page) == []
        await private_postgres.restart()
        took["PostgreSQL back"] = await seconds_until(page, f"!({says('PostgreSQL away')})")
        await page.until(WELL)

        for server, name in ((private_redis, "Redis"), (private_postgres, "PostgreSQL")):
            server.pause()
            took[f"{name} hangs"] = await seconds_until(page, says(f"{name} away since"))
            server.resume()
            took[f"{name} goes on"] = await seconds_until(page, f"!({says(f'{name} away')})")
            await page.until(WELL)

        listed = await page.evaluate("[...document.querySelectorAll('#incidents li')].map(e => e.textContent).join('|')")
        messages = page.messages
        service.service.process.terminate()
        took["service stopped"] = await seconds_until(page, says("The service does not answer since"))
    print(f"\n{took}")  # noqa: T201 - the figures
    assert all(text in listed for text in ("Redis away", "1 of 2 workers away", "PostgreSQL away"))
    assert {name: seconds for name, seconds in took.items() if seconds > IN_TIME_S} == {}
    assert [message for message in messages if "Content Security Policy" in message] == []
