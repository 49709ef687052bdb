"""The ``larder`` command as a person meets it: what it says, how it ends, what it leaves behind."""

import asyncio
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import httpx
import psutil
import pytest

from app.access.keys import KEY_PATTERN
from app.private_servers import start_postgres, start_redis
from tests.cli.larder_process import LIMIT_S, Larder
from tests.harness.servers import execute

_CURL = re.compile(r"^  (curl .+)$", re.MULTILINE)
_NO_REDIS = "redis://127.0.0.1:1/0"


async def test_dev_prints_curl_lines_that_work_and_starts_again_with_its_data(larder: Larder) -> None:
    """The printed tour shows a hit, a write, and the new stock as a hit. After SIGKILL the next ``larder dev`` just works: same
    directory, same data, no second demo catalogue over it. After Ctrl-C no server of ours is left.

    Where keys are needed, each start prints one, and ends the one before.
    """
    async with larder.serving("dev", LARDER_ACCESS="keys") as dev, httpx.AsyncClient() as client:
        earlier = _bearer(dev.said)
        lines = [line.replace("$KEY", f"Authorization: {earlier['Authorization']}") for line in _CURL.findall(dev.said)]
        first, second, counted, third = [await _curl(client, line) for line in (lines[0], *lines)]
        assert [answer.status_code for answer in (first, second, counted, third)] == [httpx.codes.OK] * 4
        assert [answer.headers["Cache-Status"][:11] for answer in (second, third)] == ["larder; hit"] * 2
        assert third.json()["stock"] == counted.json()["stock"] != second.json()["stock"]
        assert (await client.get(f"{dev.url}/docs")).status_code == httpx.codes.OK
        assert (await client.get(f"{dev.url}/products/mug-blue")).status_code == httpx.codes.UNAUTHORIZED
        await dev.end(signal.SIGKILL)
    assert _servers_of(larder)
    async with larder.serving("dev", LARDER_ACCESS="keys") as again, httpx.AsyncClient() as client:
        product = f"{again.url}/products/{third.json()['id']}"
        assert (await client.get(product, headers=earlier)).status_code == httpx.codes.UNAUTHORIZED
        assert (await client.get(product, headers=_bearer(again.said))).json()["stock"] == third.json()["stock"]
        assert await again.end(signal.SIGINT) == 0
    assert _servers_of(larder) == []


async def test_dev_interrupted_while_starting_leaves_nothing_running(larder: Larder) -> None:
    """Ctrl-C in the middle of the start ends what was started so far."""
    process = await larder.start("dev")
    async with asyncio.timeout(LIMIT_S):
        while not (larder.directory / ".larder" / "postgres" / "postmaster.pid").exists():
            await asyncio.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), LIMIT_S) == 0
    assert _servers_of(larder) == []


async def test_serve_on_given_servers_leaves_them_running(larder: Larder, own_servers: Mapping[str, str]) -> None:
    """``larder serve --migrate`` starts no server of its own and stops none."""
    async with larder.serving("serve", "--migrate", **own_servers) as serving, httpx.AsyncClient() as client:
        assert (await client.get(f"{serving.url}/readyz")).status_code == httpx.codes.OK
        assert await serving.end(signal.SIGTERM) == 0
    assert list(larder.directory.iterdir()) == []
    assert await execute(own_servers["LARDER_DATABASE_URL"], "SELECT 1") == [(1,)]


async def test_serve_without_redis_says_so_and_serves(larder: Larder, database_url: str) -> None:
    """A Redis that is not there costs a warning, not the start."""
    settings = {"LARDER_DATABASE_URL": database_url, "LARDER_REDIS_URL": _NO_REDIS}
    async with larder.serving("serve", **settings) as serving, httpx.AsyncClient() as client:
        assert "Redis at 127.0.0.1:1 does not answer" in serving.said
        assert (await client.get(f"{serving.url}/readyz")).status_code == httpx.codes.OK
        assert await serving.end(signal.SIGTERM) == 0


async def test_port_taken_is_said_before_anything_is_started(larder: Larder) -> None:
    """The message names the address and the setting; no private server was started for nothing."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        said = await larder.failure("dev", LARDER_PORT=str(port))
    assert said == f"127.0.0.1:{port} is taken by another program. Stop it, or set LARDER_PORT to another port."
    assert list(larder.directory.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"LARDER_DATABASE_URL": "postgresql://me:s3cret@127.0.0.1:1/shop"}, r"127\.0\.0\.1:1/shop .* cannot be reached"),
        ({"LARDER_DATABASE_URL": "shop at home"}, "is not a PostgreSQL URL"),
        ({}, "LARDER_DATABASE_URL is not set"),
        ({"LARDER_FENCE_TTL_SECONDS": "2"}, "LARDER_FENCE_TTL_SECONDS: unknown setting"),
    ],
)
async def test_wrong_settings_end_in_one_sentence(larder: Larder, settings: Mapping[str, str], sentence: str) -> None:
    """One line, no traceback, no password, exit status 1."""
    said = await larder.failure("migrate", **settings)
    assert re.search(sentence, said)
    assert "s3cret" not in said


async def test_wrong_password_of_postgres_is_said(larder: Larder) -> None:
    """PostgreSQL's refusal is told apart from a server that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    rules = larder.directory / "hba.conf"
    rules.write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
    larder.directory.chmod(0o755)
    options = {"listen_addresses": "127.0.0.1", "port": str(port), "hba_file": str(rules)}
    server = await start_postgres(larder.directory / "postgres", options=options)
    try:
        url = f"postgresql://postgres:wrong@127.0.0.1:{port}/larder"
        said = await larder.failure("migrate", LARDER_DATABASE_URL=url)
    finally:
        await server.stop()
    assert "does not let us in" in said
    assert "wrong@" not in said


async def test_wrong_password_of_redis_is_said(larder: Larder, database_url: str) -> None:
    """A refused password ends the start: unlike an absent server, waiting would not help."""
    server = await start_redis(larder.directory / "redis", options={"requirepass": "right"})
    try:
        url = server.url.replace("right", "wrong")
        said = await larder.failure("serve", LARDER_DATABASE_URL=database_url, LARDER_REDIS_URL=url)
    finally:
        await server.stop()
    assert "refuses the user or password" in said


async def test_database_newer_than_the_code_is_left_alone(larder: Larder, database_url: str) -> None:
    """A schema of a later version is refused in one sentence, with what to do."""
    await execute(database_url, "UPDATE larder_version SET version_num = 'from-the-future'")
    said = await larder.failure("migrate", LARDER_DATABASE_URL=database_url)
    assert "from-the-future" in said
    assert "nothing was changed" in said


async def test_directory_that_cannot_be_written_is_said(larder: Larder) -> None:
    """A ``.larder`` that is no writable directory ends the start in one sentence."""
    (larder.directory / ".larder").write_text("in the way")
    said = await larder.failure("dev")
    assert f"{larder.directory}/.larder cannot be written to" in said
    assert "LARDER_DATABASE_URL" in said


def test_python_too_old_is_said_before_anything_is_made(tmp_path: Path) -> None:
    """``make setup`` names the version that it needs and the one that it found, and makes nothing."""
    old = tmp_path / "old-python"
    old.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -c "
        "'import sys; code = sys.argv.pop(); sys.version_info = (3, 9, 2); exec(code)' \"$2\"\n"
    )
    old.chmod(0o755)
    checkout = Path(__file__).parents[2]
    place = tmp_path / "checkout"
    place.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements-run.txt", "requirements-dev.txt"):
        (place / name).write_bytes((checkout / name).read_bytes())
    command = ["make", "--no-print-directory", f"PYTHON={old}", "setup"]
    said = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode != 0
    assert said.stderr.startswith("Larder needs Python 3.11 or newer: ")
    assert "is Python 3.9" in said.stderr
    assert not (place / ".venv").exists()


def _bearer(said: str) -> dict[str, str]:
    found = re.search(KEY_PATTERN, said)
    assert found is not None, said
    return {"Authorization": f"Bearer {found[0]}"}


async def _curl(client: httpx.AsyncClient, line: str) -> httpx.Response:
    words = iter(shlex.split(line)[1:])
    method, url, headers, body = "GET", "", {}, None
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = next(words)
        elif word != "-i":
            url = word
    return await client.request(method, url, headers=headers, content=body)


def _servers_of(larder: Larder) -> list[list[str]]:
    """The command lines of living servers on files in the command's directory."""
    found = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [arguments for arguments in found if any(word.startswith(f"{larder.directory}{os.sep}") for word in arguments)]


async def test_version(larder: Larder) -> None:
    """`larder --version` says which release it is, without any setting."""
    assert await larder.run("--version") == (0, f"larder {version('larder')}\n")
