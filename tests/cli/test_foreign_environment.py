"""The command in an environment that was made for other programs."""

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path

import httpx
import psutil
import pytest

from app.cli import parse
from app.cli.errors import CommandFailed
from app.private_servers import ServerFailed
from app.private_servers.directory import socket_directory
from tests.cli.larder_process import LIMIT_S, Larder

_LIBPQ = {
    "PGPORT": "6000",
    "PGHOST": "nowhere.example",
    "PGSERVICE": "absent",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGOPTIONS": "-c search_path=nowhere",
    "PGDATESTYLE": "German",
}
_ODD = 'it\'s "odd" \\\\ 100%, ü'


async def test_dev_among_other_programs(larder: Larder) -> None:
    """Variables of libpq, a long directory of temporary files, an odd directory and another package called ``app`` change
    nothing, for the workers neither. A terminal that is closed (SIGHUP) leaves no server behind.
    """
    foreign, temporary = larder.directory / "site", larder.directory / ("t" * 90)
    (foreign / "app").mkdir(parents=True)
    (foreign / "app" / "__init__.py").write_text("raise ImportError('this is another program')\n")
    temporary.mkdir()
    given = {**_LIBPQ, "TMPDIR": str(temporary), "PYTHONPATH": str(foreign), "LARDER_WORKERS": "2"}
    async with larder.serving("dev", "--directory", _ODD, **given) as dev, httpx.AsyncClient() as client:
        assert "nobody needs a key" in dev.said
        assert (await client.get(f"{dev.url}/products/mug-blue")).json()["stock"] == 40
        assert len([child for child in psutil.Process(dev.process.pid).children() if "larder_entry" in child.cmdline()]) == 2
        assert await dev.end(signal.SIGHUP) == 0
    place = str(larder.directory / _ODD)
    left = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert [command for command in left if any(word.startswith(place) for word in command)] == []


@pytest.mark.parametrize("name", ["t" * 90, "a,b", "two words", "größe", "100%", "absent"])
def test_socket_has_a_directory_whatever_tmpdir_is(environment: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """A name that a socket, PostgreSQL or a URL cannot have is not used, nor is one that is not there."""
    temporary = tmp_path / name
    if name != "absent":
        temporary.mkdir()
    environment.setenv("TMPDIR", str(temporary))
    made = socket_directory("larder-test-")
    made.rmdir()
    assert made.parent == Path("/tmp")  # noqa: S108 - nothing is made in it but by mkdtemp
    with pytest.raises(ServerFailed, match="Set TMPDIR to a short one"):
        socket_directory("larder-test-", usual=str(temporary))


def test_short_tmpdir_is_used(environment: pytest.MonkeyPatch, servers_directory: Path) -> None:
    """The place that the environment names is used where that is possible."""
    environment.setenv("TMPDIR", str(servers_directory))
    made = socket_directory("larder-test-")
    made.rmdir()
    assert made.parent == servers_directory


async def _follow(url: str) -> None:
    command, parsed = parse(["follow", "--url", url])
    async with asyncio.timeout(LIMIT_S):
        await command.run(parsed)


@pytest.mark.parametrize(
    "given",
    [
        {"ALL_PROXY": "socks5://127.0.0.1:1080"},
        {"HTTP_PROXY": "gopher://proxy"},
        {"HTTPS_PROXY": "http://[::1"},
        {"SSL_CERT_FILE": "/absent"},
    ],
    ids=str,
)
async def test_follow_where_a_proxy_cannot_be_used(environment: pytest.MonkeyPatch, given: Mapping[str, str]) -> None:
    """It is a sentence that names the variables, not a traceback."""
    for name, value in given.items():
        environment.setenv(name, value)
    with pytest.raises(CommandFailed, match="Correct ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE"):
        await _follow("http://larder.example")


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://host/", "http://", "http://a:b:c/", "http://[::1"])
async def test_follow_of_what_is_no_url(url: str) -> None:
    """It is refused at once, and not tried again for ever."""
    with pytest.raises(CommandFailed, match="--url"):
        await _follow(url)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"items": []}', b"null"])
async def test_follow_of_another_service(body: bytes) -> None:
    """An answer that is no page of changes ends it with a sentence."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(CommandFailed, match="is not a Larder"):
            await _follow(f"http://127.0.0.1:{port}")
