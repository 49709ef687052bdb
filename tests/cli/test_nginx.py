"""The recipe for nginx, as it is shipped but for its ports and paths."""

import asyncio
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.cli.larder_process import LIMIT_S, Larder
from tests.harness.certificates import Authority, Pair

_RECIPE = Path(__file__).parents[2] / "deploy" / "nginx" / "larder.conf"
_PROGRAM = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
_NAME = "larder.example"
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")

pytestmark = pytest.mark.skipif(_PROGRAM is None and "CI" not in os.environ, reason="nginx is not installed")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def _proxy(directory: Path, pair: Pair, upstream_port: int) -> AsyncIterator[int]:
    """Run nginx by the recipe, and yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    recipe = _RECIPE.read_text()
    for shipped, here in (
        ("127.0.0.1:8000;", f"127.0.0.1:{upstream_port};"),
        ("listen 443 ", f"listen 127.0.0.1:{port} "),
        ("/etc/ssl/larder/certificate.pem", str(pair.certificate)),
        ("/etc/ssl/larder/key.pem", str(pair.key)),
    ):
        assert shipped in recipe
        recipe = recipe.replace(shipped, here)
    temporary = "".join(f"{name}_temp_path {directory}/{name};\n" for name in _TEMPORARY)
    user = "user root;\n" if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(
        f"{user}pid {directory}/nginx.pid;\ndaemon off;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{recipe}}}\n"
    )
    assert _PROGRAM is not None, "nginx is not installed"
    process = await asyncio.create_subprocess_exec(
        *(_PROGRAM, "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", str(directory / "error.log"))
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            while not await _listens(port):
                assert process.returncode is None, (directory / "error.log").read_text()
                await asyncio.sleep(0.05)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


async def _answer(port: int, authority: Authority, request: bytes, name: str = _NAME) -> bytes:
    """Send a request by TLS, and return the whole answer."""
    trusted = ssl.create_default_context(cafile=str(authority.certificate))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusted, server_hostname=name)
    writer.write(request)
    async with asyncio.timeout(LIMIT_S):
        answer = await reader.read()
    writer.close()
    return answer


async def test_what_the_proxy_passes_on(tmp_path: Path, authority: Authority) -> None:
    """Path and Host arrive as they were sent, the body in full with its length, and no offer of an upgrade."""
    heads: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heads.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(6))
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server, _proxy(tmp_path, authority.pair("proxy", f"DNS:{_NAME}"), server.sockets[0].getsockname()[1]) as port:
        request = (
            b"PUT /products/a%2Fb?x=%31 HTTP/1.1\r\nHost: larder.example:8443\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
        )
        assert (await _answer(port, authority, request)).startswith(b"HTTP/1.1 204 ")
        with pytest.raises(ssl.SSLError):
            await _answer(port, authority, request, "other.example")
    [whole] = heads
    line, *fields = whole.lower().split(b"\r\n\r\n")[0].split(b"\r\n")
    assert line == b"put /products/a%2fb?x=%31 http/1.1"
    assert sorted(fields) == [b"content-length: 6", b"host: larder.example:8443"]
    assert whole.endswith(b"abcdef")


async def test_larder_behind_the_proxy(
    larder: Larder, own_servers: Mapping[str, str], tmp_path: Path, authority: Authority
) -> None:
    """A body of the documented size and a conditional write pass, a larger body is 413, a read is a hit with a strong ETag."""
    trusted = ssl.create_default_context(cafile=str(authority.certificate))
    headers = {"Host": _NAME, "Content-Type": "application/json"}
    body = b'{"name": "Tray", "price_cents": 1500}'
    largest = body + b" " * (4_194_304 - len(body))
    async with (
        larder.serving("serve", **own_servers, LARDER_BODY_LIMIT_BYTES="4194304", LARDER_ALLOWED_HOSTS=_NAME) as serving,
        _proxy(tmp_path, authority.pair("proxy", f"DNS:{_NAME}"), urlsplit(serving.url).port or 0) as port,
        httpx.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=trusted, headers=headers, timeout=LIMIT_S) as client,
    ):

        async def answer(method: str, content: bytes = b"", **more: str) -> httpx.Response:
            request = client.build_request(method, "/products/tray", content=content, headers=more)
            request.extensions["sni_hostname"] = _NAME
            return await client.send(request)

        made = await answer("PUT", largest)
        assert made.status_code == 201, made.text
        read = await answer("GET")
        assert read.headers["Cache-Status"] == "larder; hit"
        assert read.headers["ETag"] == made.headers["ETag"]
        assert (await answer("PUT", body, **{"If-Match": '"7"'})).status_code == 412
        assert (await answer("PUT", largest + b" ")).status_code == 413
