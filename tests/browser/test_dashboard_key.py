"""The dashboard in keys mode: it shows nothing without a key, keeps the key in memory, and says when keys cannot be checked."""

from pathlib import Path

import pytest

from app.access.key_file import file_entry
from app.access.key_table import create_key
from app.access.keys import Scope, id_of, make_key
from app.private_servers import PostgresServer
from tests.browser.chromium import chromium
from tests.browser.test_dashboard import NO_INTERNET, WELL, says, violations
from tests.browser.test_pages import served
from tests.limits import open_database

LOCKED = "!document.querySelector('#key-form').hidden && document.querySelector('#content').hidden"


async def key_of(database_url: str, *scopes: Scope) -> str:
    """A new key."""
    key, digest = make_key()
    database = open_database(database_url)
    await create_key(database, id_of(key), digest, "operator", set(scopes))
    await database.close()
    return key


async def test_the_dashboard_asks_for_a_key(database_url: str, redis_url: str, namespace: str) -> None:
    """It refuses one without the scope, opens with the right one by keyboard alone, and forgets it when it is told to."""
    reader = await key_of(database_url, Scope.PRODUCTS_READ)
    operator = await key_of(database_url, Scope.OPERATE)
    async with (
        served(DATABASE_URL=database_url, REDIS_URL=redis_url, CACHE_NAMESPACE=namespace) as url,
        chromium(NO_INTERNET) as page,
    ):
        await page.open(f"{url}/dashboard")
        await page.until(LOCKED)
        await page.until("document.activeElement.id === 'key'")
        assert await violations(page) == []
        await page.call("Input.insertText", text=reader)
        await page.press("Enter")
        await page.until("document.querySelector('#key-error').textContent.includes('scope operate')")
        await page.write("#key", operator)
        await page.press("Enter")
        await page.until(WELL)
        assert not await page.evaluate("document.documentElement.innerHTML.includes('lrd_')")
        assert (
            await page.evaluate(
                "Object.keys(localStorage).length + Object.keys(sessionStorage).length + document.cookie.length"
            )
            == 0
        )
        await page.click("#forget")
        await page.until(LOCKED)
        await page.open(f"{url}/dashboard")
        await page.until(LOCKED)
        assert [message for message in page.messages if "Content Security Policy" in message] == []


async def test_everything_is_reached_by_keyboard(database_url: str, redis_url: str, namespace: str) -> None:
    """Tab leads to each control in the order of the page; Pause stops the changes, and says so."""
    async with (
        served(DATABASE_URL=database_url, REDIS_URL=redis_url, CACHE_NAMESPACE=namespace, ACCESS="open") as url,
        chromium(NO_INTERNET) as page,
    ):
        await page.open(f"{url}/dashboard")
        await page.until(WELL)
        order = []
        for _ in range(3):
            await page.press("Tab")
            order.append(await page.evaluate("document.activeElement.id || document.activeElement.localName"))
            if order[-1] == "pause":
                await page.press("Enter")
        assert order == ["pause", "summary", "a"]
        assert await page.evaluate("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
        assert (await page.evaluate("document.querySelector('[role=status]').textContent")).startswith("Well.")


@pytest.mark.heavy
@pytest.mark.slow
async def test_keys_that_cannot_be_checked_are_no_riddle(
    private_postgres: PostgresServer, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    """PostgreSQL away: the page says that keys cannot be checked, and why; a key of the file opens it all the same."""
    key = await key_of(private_postgres.url, Scope.OPERATE)
    file_key, digest = make_key()
    keys_file = tmp_path / "keys.toml"
    entry = {"id": id_of(file_key), "client": "operator", "scopes": [Scope.OPERATE.value], "sha256": digest.hex()}
    keys_file.write_text(file_entry(entry), encoding="utf-8")
    settings = {
        "DATABASE_URL": private_postgres.url,
        "REDIS_URL": redis_url,
        "CACHE_NAMESPACE": namespace,
        "KEYS_FILE": str(keys_file),
    }
    async with served(**settings) as url, chromium(NO_INTERNET) as page:
        await page.open(f"{url}/dashboard")
        await page.write("#key", key)
        await page.press("Enter")
        await page.until(WELL)
        await private_postgres.kill()
        await page.until(says("Keys cannot be checked since", "nothing is stale"))
        await page.click("#forget")
        await page.write("#key", file_key)
        await page.press("Enter")
        await page.until(says("PostgreSQL away since", "Keys cannot be read since"))
        await private_postgres.restart()
        await page.until(WELL)
