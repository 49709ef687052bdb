"""``larder keys`` as an operator meets it."""

import asyncio
import re
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from app.access.keys import KEY_PATTERN, id_of
from app.cli.keys import REVOKE_WAIT_S
from tests.cli.larder_process import LIMIT_S, Larder

_EVERYWHERE = "0.0.0.0"  # noqa: S104 - what the test is about
CREATE = ("keys", "create", "--client", "till", "--scope", "products:read")


async def _made(larder: Larder, *arguments: str, **settings: str) -> str:
    """Run a command that makes a key; return the key, which is the only line on stdout."""
    process = await larder.start(*arguments, **settings)
    said, _ = await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert process.returncode == 0, said.decode()
    [key] = re.findall(KEY_PATTERN, said.decode())
    return str(key)


@pytest.mark.heavy
async def test_key_from_first_to_last(larder: Larder, own_servers: Mapping[str, str]) -> None:
    """A service without a key answers 401 and says how to make one; the key works, is listed, rotated and revoked."""
    async with larder.serving("serve", **own_servers, LARDER_ACCESS="keys") as serving:
        assert "larder keys create --client NAME --scope products:read" in serving.said
        async with httpx.AsyncClient(base_url=serving.url) as client:
            assert (await client.get("/products/none")).status_code == 401
            key = await _made(larder, *CREATE, "--expires", "90d", "--rate", "200/s", **own_servers)
            await _until(client, key, 404)
            assert (await client.get("/metrics", headers=_shown(key))).status_code == 403
            (larder.directory / "shop.csv").write_text("id,name,price_cents\nmug,Mug,5\n")
            imported = ("import", "shop.csv", "--url", serving.url, "--retries", "0")
            assert (await larder.run(*imported))[0] == 2
            (larder.directory / "key").write_text(await _made(larder, *CREATE[:-1], "products:write", **own_servers))
            async with asyncio.timeout(LIMIT_S):
                while (await larder.run(*imported, "--key-file", "key"))[0] != 0:
                    await asyncio.sleep(0.1)
            assert (await client.get("/products/mug", headers=_shown(key))).status_code == 200
            other = await _made(larder, "keys", "rotate", id_of(key), **own_servers)
            await _until(client, other, 404)
            assert (await client.get("/products/none", headers=_shown(key))).status_code == 404
            _, listed = await larder.run("keys", "list", **own_servers)
            assert [line.split()[1] for line in listed.splitlines()] == ["till"] * 3
            assert {id_of(key), id_of(other)} < {line.split()[0] for line in listed.splitlines()}
            assert key not in listed
            began = time.monotonic()
            status, said = await larder.run("keys", "revoke", id_of(key), **own_servers)
            assert (status, time.monotonic() - began > REVOKE_WAIT_S) == (0, True)
            assert said == f"Key {id_of(key)} is revoked, and no process accepts it any more.\n"
            assert (await client.get("/products/none", headers=_shown(key))).status_code == 401
            assert (await client.get("/products/none", headers=_shown(other))).status_code == 404


@pytest.mark.heavy
async def test_key_of_a_file(larder: Larder, own_servers: Mapping[str, str]) -> None:
    """The lines that `create --offline` prints make a key file, and removing them ends the key."""
    process = await larder.start(*CREATE, "--offline")
    said = (await asyncio.wait_for(process.communicate(), LIMIT_S))[0].decode()
    [key] = re.findall(KEY_PATTERN, said)
    path = Path(larder.directory) / "keys.toml"
    path.write_text(said[said.index("[[key]]") : said.index(key)])
    async with (
        larder.serving("serve", **own_servers, LARDER_ACCESS="keys", LARDER_KEYS_FILE=str(path)) as serving,
        httpx.AsyncClient(base_url=serving.url) as client,
    ):
        assert (await client.get("/products/none", headers=_shown(key))).status_code == 404
        path.write_text("")
        await _until(client, key, 401)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("revoke", "unknown"), "there is no key unknown"),
        (("rotate", "unknown"), "there is no valid key unknown"),
    ],
)
async def test_unknown_key_is_named(
    larder: Larder, own_servers: Mapping[str, str], arguments: tuple[str, ...], said: str
) -> None:
    """A mistyped id changes nothing, and the message says where the ids are listed."""
    failure = await larder.failure("keys", *arguments, **own_servers)
    assert said in failure
    assert "larder keys list" in failure


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "--client", "a b", "--scope", "products:read"),
        ("create", "--client", "till", "--scope", "stock:teleport"),
        ("create", "--client", "till"),
        (*CREATE[1:], "--expires", "tomorrow"),
        (*CREATE[1:], "--rate", "fast"),
    ],
)
async def test_wrong_arguments_are_usage_errors(larder: Larder, arguments: tuple[str, ...]) -> None:
    """Nothing is stored, and the usage is shown."""
    status, said = await larder.run("keys", *arguments)
    assert status == 2
    assert "usage: larder keys" in said


@pytest.mark.heavy
async def test_open_service_warns_on_an_address_that_others_reach(larder: Larder, own_servers: Mapping[str, str]) -> None:
    """On all addresses an open service says at each start that others can change everything."""
    async with larder.serving("serve", **own_servers, LARDER_HOST=_EVERYWHERE) as serving:
        assert "whoever reaches it may change everything" in serving.said
    async with larder.serving("serve", **own_servers, LARDER_ACCESS="keys", LARDER_HOST=_EVERYWHERE) as serving:
        assert "whoever reaches it" not in serving.said


def _shown(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def _until(client: httpx.AsyncClient, key: str, status: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while (await client.get("/products/none", headers=_shown(key))).status_code != status:
            await asyncio.sleep(0.05)
