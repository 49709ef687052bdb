"""The service's own TLS, as real processes with certificates made here."""

import asyncio
import os
import signal
import socket
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from app.server.tls import CLOSE_TIMEOUT_S, HANDSHAKE_TIMEOUT_S
from tests.cli.larder_process import LIMIT_S, Larder
from tests.harness.certificates import Authority, Pair

ONE, TWO = ("serve",), ("serve", "--workers", "2")
_LEAST_REQUESTS = 300


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def _tls(pair: Pair) -> dict[str, str]:
    return {"LARDER_TLS_CERTIFICATE": str(pair.certificate), "LARDER_TLS_KEY": str(pair.key)}


def _trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.certificate))


def _replace(old: Pair, new: Pair) -> None:
    """Put another pair into the files of the old one, as a deployment does."""
    new.key.replace(old.key)
    new.certificate.replace(old.certificate)


def _shown(url: str) -> bytes:
    """Return the certificate that a new connection is shown, whoever signed it."""
    place = urlsplit(url)
    assert place.hostname is not None
    assert place.port is not None
    return ssl.get_server_certificate((place.hostname, place.port)).encode()


def _version(url: str, authority: Authority, version: ssl.TLSVersion) -> str | None:
    """Return the version of a connection by a client that knows only this one."""
    place, client = urlsplit(url), _trusting(authority)
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.minimum_version = client.maximum_version = version
    with (
        socket.create_connection((place.hostname, place.port)) as plain,
        client.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
    ):
        return wrapped.version()


async def _until_shown(url: str, certificate: bytes) -> None:
    async with asyncio.timeout(LIMIT_S):
        while (await asyncio.to_thread(_shown, url)).strip() != certificate.strip():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("command", [ONE, TWO], ids=["one", "workers"])
async def test_served_by_tls(
    command: tuple[str, ...], larder: Larder, own_servers: Mapping[str, str], authority: Authority
) -> None:
    """The start says https, a write and a hot read work on one connection, versions below 1.2 and plain HTTP are refused, and
    SIGHUP ends the process in order.
    """
    async with larder.serving(*command, **own_servers, **_tls(authority.pair("server"))) as serving:
        assert serving.url.startswith("https://127.0.0.1:")
        async with httpx.AsyncClient(base_url=serving.url, verify=_trusting(authority), timeout=LIMIT_S) as client:
            (await client.put("/products/tray", json={"name": "Tray", "price_cents": 1_500})).raise_for_status()
            answer = await client.get("/products/tray")
            assert answer.headers["Cache-Status"] == "larder; hit"
            assert answer.json()["name"] == "Tray"
            with pytest.raises(httpx.TransportError):
                await client.get(serving.url.replace("https", "http") + "/livez")
        assert await asyncio.to_thread(_version, serving.url, authority, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
        with pytest.warns(DeprecationWarning, match="TLSv1_1"), pytest.raises(ssl.SSLError):
            await asyncio.to_thread(_version, serving.url, authority, ssl.TLSVersion.TLSv1_1)
        assert await serving.end(signal.SIGHUP) == 0


@pytest.mark.heavy
@pytest.mark.parametrize("command", [ONE, TWO], ids=["one", "workers"])
async def test_certificate_renewed_under_load(
    command: tuple[str, ...], larder: Larder, own_servers: Mapping[str, str], authority: Authority
) -> None:
    """While four clients open a connection for each request, a broken pair changes nothing and a good one is shown to new
    connections; no request fails, and a connection opened before goes on.
    """
    pair, renewed = authority.pair("server"), authority.pair("renewed")
    before, after = pair.certificate.read_bytes(), renewed.certificate.read_bytes()
    trusted, requests, ended = _trusting(authority), 0, asyncio.Event()

    async def load(url: str) -> None:
        nonlocal requests
        while not ended.is_set():
            async with httpx.AsyncClient(base_url=url, verify=trusted, timeout=LIMIT_S) as client:
                (await client.get("/products/tray")).raise_for_status()
            requests += 1

    async with larder.serving(*command, **own_servers, **_tls(pair)) as serving:  # noqa: SIM117 - the second needs the first
        async with httpx.AsyncClient(base_url=serving.url, verify=trusted, timeout=LIMIT_S) as kept:
            (await kept.put("/products/tray", json={"name": "Tray", "price_cents": 1_500})).raise_for_status()
            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(load(serving.url))
                pair.certificate.write_text("no certificate\n")
                assert serving.process.stdout is not None
                async with asyncio.timeout(LIMIT_S):
                    while b"The certificate in use stays." not in await serving.process.stdout.readline():
                        pass
                assert (await asyncio.to_thread(_shown, serving.url)).strip() == before.strip()
                _replace(pair, renewed)
                await _until_shown(serving.url, after)
                while requests < _LEAST_REQUESTS:
                    await asyncio.sleep(0.05)
                ended.set()
            (await kept.get("/products/tray")).raise_for_status()


@pytest.mark.heavy
async def test_silent_handshake_is_ended(larder: Larder, own_servers: Mapping[str, str], authority: Authority) -> None:
    """A client that connects and says nothing loses its connection after ten seconds, and others are served meanwhile."""
    async with larder.serving(*ONE, **own_servers, **_tls(authority.pair("server"))) as serving:
        place = urlsplit(serving.url)
        began = time.monotonic()
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        async with httpx.AsyncClient(base_url=serving.url, verify=_trusting(authority), timeout=LIMIT_S) as client:
            (await client.get("/livez")).raise_for_status()
        async with asyncio.timeout(LIMIT_S):
            assert await reader.read() == b""
        writer.close()
        assert 9 < time.monotonic() - began < 20


async def test_clients_that_only_hold_places_make_room(
    larder: Larder, own_servers: Mapping[str, str], authority: Authority
) -> None:
    """A connection without a word is ended before its time. An idle one is told, and its socket is closed at once."""
    settings = {**own_servers, **_tls(authority.pair("server")), "LARDER_CONNECTION_LIMIT": "1"}
    async with asyncio.timeout(LIMIT_S), larder.serving(*ONE, **settings) as serving:
        place = urlsplit(serving.url)
        _, silent = await asyncio.open_connection(place.hostname, place.port)
        clients = [await asyncio.to_thread(_until_admitted, serving.url, authority) for _ in range(2)]
        silent.close()
        # The records of TLS are read here as bytes, so that the client does not answer the end.
        with socket.socket(fileno=os.dup(clients[0].fileno())) as unanswering:
            unanswering.settimeout(CLOSE_TIMEOUT_S - 1)
            with unanswering.makefile("rb") as records:
                assert await asyncio.to_thread(records.read)
        for client in clients:
            client.close()


def _until_admitted(url: str, authority: Authority) -> ssl.SSLSocket:
    """Try to connect until a request is answered, and return the connection."""
    place = urlsplit(url)
    until = time.monotonic() + HANDSHAKE_TIMEOUT_S - 1
    while True:
        plain = socket.create_connection((place.hostname, place.port), timeout=LIMIT_S)
        try:
            client = _trusting(authority).wrap_socket(plain, server_hostname="127.0.0.1")
        except OSError:
            plain.close()
            assert time.monotonic() < until
            continue
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
        return client


@pytest.mark.heavy
@pytest.mark.parametrize("command", [ONE, TWO], ids=["one", "workers"])
async def test_unusable_certificate_ends_the_start(
    command: tuple[str, ...], larder: Larder, own_servers: Mapping[str, str], authority: Authority
) -> None:
    """Half of the settings, a missing file, a key of another certificate and no PEM at all are each said in one sentence."""
    pair, other = authority.pair("server"), authority.pair("other")
    half = await larder.failure(*command, **own_servers, LARDER_TLS_KEY=str(pair.key))
    assert half == "tls_certificate and tls_key belong together: set both, or neither"
    missing = await larder.failure(*command, **own_servers, **_tls(Pair(Path("/nowhere.pem"), pair.key)))
    assert missing == (
        "/nowhere.pem cannot be read (No such file or directory). Correct LARDER_TLS_CERTIFICATE and LARDER_TLS_KEY."
    )
    mismatch = await larder.failure(*command, **own_servers, **_tls(Pair(pair.certificate, other.key)))
    assert "does not belong to the certificate" in mismatch
    swapped = await larder.failure(*command, **own_servers, **_tls(Pair(pair.key, pair.certificate)))
    assert "are not a certificate and its key in PEM" in swapped
