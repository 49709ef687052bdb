"""TLS to PostgreSQL and to Redis, users of Redis and its Unix socket, on private servers with certificates made here.

The servers of the wheels know no TLS, so these are the distribution's.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx
import pytest

from app.private_servers import PostgresServer, RedisServer, start_postgres, start_redis
from app.private_servers.account import give, server_account
from tests.cli.larder_process import LIMIT_S, Larder
from tests.harness.certificates import Authority

pytestmark = pytest.mark.heavy

_POSTGRES = Path("/usr/lib/postgresql/15/bin")
_REDIS = Path("/usr/bin/redis-server")
_IN_CI = "CI" in os.environ
_PATIENT = {"LARDER_REDIS_TIMEOUT_MS": "5000", "LARDER_REDIS_CONNECT_TIMEOUT_MS": "5000"}
"""Deadlines that a busy machine keeps."""

needs_redis = pytest.mark.skipif(not _REDIS.exists() and not _IN_CI, reason=f"there is no {_REDIS}, which knows TLS")
needs_postgres = pytest.mark.skipif(not _POSTGRES.exists() and not _IN_CI, reason=f"there is no {_POSTGRES}, which knows TLS")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def authority(larder: Larder) -> Authority:
    """An authority whose files the servers' account can read."""
    directory = larder.directory / "certificates"
    directory.mkdir()
    return Authority(directory)


@pytest.fixture
def other_authority(authority: Authority) -> Authority:
    return Authority(authority.certificate.parent, "other")


@pytest.fixture
async def tls_redis(larder: Larder, authority: Authority) -> AsyncIterator[tuple[RedisServer, int]]:
    """A Redis that shows a certificate for localhost and asks for one, and the port of its TLS."""
    pair, port = authority.pair("redis", "DNS:localhost"), _free_port()
    give(authority.certificate.parent, server_account(), pair.certificate, pair.key, authority.certificate)
    options = {
        "tls-port": str(port),
        "tls-cert-file": str(pair.certificate),
        "tls-key-file": str(pair.key),
        "tls-ca-cert-file": str(authority.certificate),
        "tls-auth-clients": "optional",
        "user": "larder on >s3cret ~wtc* +@all",
    }
    server = await start_redis(larder.directory / "redis", program=_REDIS, options=options)
    yield server, port
    await server.stop()


@pytest.fixture
async def tls_postgres(larder: Larder, authority: Authority) -> AsyncIterator[tuple[PostgresServer, int]]:
    """A PostgreSQL that shows a certificate for localhost, and its port."""
    pair, port = authority.pair("postgres", "DNS:localhost"), _free_port()
    give(authority.certificate.parent, server_account(), pair.certificate, pair.key, authority.certificate)
    options = {
        "ssl": "on",
        "ssl_cert_file": str(pair.certificate),
        "ssl_key_file": str(pair.key),
        "listen_addresses": "127.0.0.1",
        "port": str(port),
    }
    server = await start_postgres(larder.directory / "postgres", programs=_POSTGRES, options=options)
    yield server, port
    await server.stop()


async def _hit(larder: Larder, settings: Mapping[str, str]) -> None:
    """Assert that Larder serves a hit with these settings."""
    async with (
        larder.serving("serve", "--migrate", **{**_PATIENT, **settings}) as serving,
        httpx.AsyncClient(base_url=serving.url, timeout=LIMIT_S) as client,
    ):
        assert "does not answer" not in serving.said
        (await client.put("/products/tray", json={"name": "Tray", "price_cents": 1_500})).raise_for_status()
        async with asyncio.timeout(LIMIT_S):  # the first audit may have to wait for fences of the database's past
            while (await client.get("/products/tray")).headers["Cache-Status"] != "larder; hit":
                await asyncio.sleep(0.05)


@needs_redis
async def test_redis_by_tls_as_a_user(
    larder: Larder, own_servers: Mapping[str, str], authority: Authority, tls_redis: tuple[RedisServer, int]
) -> None:
    """``rediss://user:password@`` with its authority gives hits, also with Larder's own certificate and by another name."""
    _, port = tls_redis
    own = authority.pair("larder")
    settings = {
        **own_servers,
        "LARDER_REDIS_URL": f"rediss://larder:s3cret@localhost:{port}/0",
        "LARDER_REDIS_CA_FILE": str(authority.certificate),
    }
    await _hit(larder, settings)
    by_address = {"LARDER_REDIS_URL": f"rediss://larder:s3cret@127.0.0.1:{port}/0", "LARDER_REDIS_TLS_NAME": "localhost"}
    certificate = {"LARDER_REDIS_CERT_FILE": str(own.certificate), "LARDER_REDIS_KEY_FILE": str(own.key)}
    await _hit(larder, {**settings, **by_address, **certificate})


@needs_redis
async def test_sentinel_and_its_master_by_tls(
    larder: Larder, own_servers: Mapping[str, str], authority: Authority, tls_redis: tuple[RedisServer, int]
) -> None:
    """``rediss+sentinel://`` verifies the sentinel by the URL and the master, whose address is a number, by its name."""
    _, port = tls_redis
    pair, sentinel_port = authority.pair("sentinel", "DNS:localhost"), _free_port()
    give(authority.certificate.parent, server_account(), pair.certificate, pair.key)
    options = {
        "tls-port": str(sentinel_port),
        "tls-cert-file": str(pair.certificate),
        "tls-key-file": str(pair.key),
        "tls-ca-cert-file": str(authority.certificate),
        "tls-auth-clients": "optional",
        "tls-replication": "yes",
        "sentinel monitor": f"larder 127.0.0.1 {port} 1",
        "sentinel auth-user": "larder larder",
        "sentinel auth-pass": "larder s3cret",
    }
    program = larder.directory / "redis-sentinel"
    program.symlink_to(_REDIS)
    server = await start_redis(larder.directory / "sentinel", program=program, options=options)
    try:
        settings = {
            **own_servers,
            "LARDER_REDIS_URL": f"rediss+sentinel://larder:s3cret@localhost:{sentinel_port}/0?service=larder",
            "LARDER_SENTINEL_PASSWORD": server.password,
            "LARDER_REDIS_CA_FILE": str(authority.certificate),
        }
        await _hit(larder, {**settings, "LARDER_REDIS_TLS_NAME": "localhost"})
        failure = await larder.failure("serve", **_PATIENT, **settings)
    finally:
        await server.stop()
    assert "shows a certificate of another name" in failure


@needs_redis
async def test_redis_whose_tls_is_wrong_is_said(
    larder: Larder,
    own_servers: Mapping[str, str],
    authority: Authority,
    other_authority: Authority,
    tls_redis: tuple[RedisServer, int],
) -> None:
    """Another authority, none, another name, a missing file and a wrong password each end the start with what to do."""
    _, port = tls_redis
    url, trusted = f"rediss://larder:s3cret@localhost:{port}/0", str(authority.certificate)

    async def said(**settings: str) -> str:
        return await larder.failure("serve", **{**own_servers, **_PATIENT, "LARDER_REDIS_URL": url, **settings})

    for wrong in ({"LARDER_REDIS_CA_FILE": str(other_authority.certificate)}, {}):
        failure = await said(**wrong)
        assert f"Redis at localhost:{port} (LARDER_REDIS_URL) shows a certificate that no trusted authority signed" in failure
        assert "Set LARDER_REDIS_CA_FILE" in failure
    failure = await said(LARDER_REDIS_URL=url.replace("localhost", "127.0.0.1"), LARDER_REDIS_CA_FILE=trusted)
    assert "shows a certificate of another name" in failure
    assert "LARDER_REDIS_TLS_NAME" in failure
    failure = await said(LARDER_REDIS_CA_FILE="/nowhere.pem")
    assert "(/nowhere.pem) cannot be used (No such file or directory)" in failure
    failure = await said(LARDER_REDIS_URL=url.replace("s3cret", "wrong"), LARDER_REDIS_CA_FILE=trusted)
    assert "refuses the user or password" in failure
    failure = await said(LARDER_REDIS_URL=f"{url}?ssl_cert_reqs=none")
    assert "certificates are always verified" in failure


async def test_redis_that_speaks_no_tls_is_said(larder: Larder, own_servers: Mapping[str, str]) -> None:
    """``rediss://`` to a server that waits for plain text is said; without it Larder serves."""
    server = await start_redis(larder.directory / "redis", ports=[_free_port()])
    try:
        url = server.url.replace("redis://", "rediss://")
        async with larder.serving("serve", **{**own_servers, "LARDER_REDIS_URL": url}) as serving:
            assert f"Redis at 127.0.0.1:{server.port} does not answer by TLS" in serving.said
    finally:
        await server.stop()


async def test_redis_by_its_unix_socket(larder: Larder, own_servers: Mapping[str, str]) -> None:
    """A ``unix://`` URL with a password gives hits; its password is enforced and never shown."""
    server = await start_redis(larder.directory / "redis", options={"requirepass": "s3cret"})
    try:
        await _hit(larder, {**own_servers, "LARDER_REDIS_URL": server.url})
        wrong = server.url.replace("s3cret", "wr0ng")
        failure = await larder.failure("serve", **{**own_servers, **_PATIENT, "LARDER_REDIS_URL": wrong})
    finally:
        await server.stop()
    assert f"Redis at {server.socket} (LARDER_REDIS_URL) refuses the user or password" in failure
    assert "wr0ng" not in failure


@needs_postgres
async def test_postgres_verified_in_full(
    larder: Larder,
    own_servers: Mapping[str, str],
    authority: Authority,
    other_authority: Authority,
    tls_postgres: tuple[PostgresServer, int],
) -> None:
    """``sslmode=verify-full`` serves; another authority, another name, a missing file and a server without TLS are said."""
    _, port = tls_postgres
    url = f"postgresql://postgres@localhost:{port}/larder?sslmode=verify-full&sslrootcert={authority.certificate}"
    await _hit(larder, {**own_servers, "LARDER_DATABASE_URL": url})

    async def said(url: str) -> str:
        return await larder.failure("serve", **{**own_servers, "LARDER_DATABASE_URL": url})

    failure = await said(url.replace(str(authority.certificate), str(other_authority.certificate)))
    assert (
        f"PostgreSQL at localhost:{port}/larder (LARDER_DATABASE_URL) shows a certificate that sslrootcert did not" in failure
    )
    assert "Correct sslrootcert in the URL." in failure
    failure = await said(url.replace("@localhost", "@127.0.0.1"))
    assert "shows a certificate of another name" in failure
    assert "Name the host as the certificate does" in failure
    failure = await said(url.replace(str(authority.certificate), "/nowhere.pem"))
    assert "Let sslrootcert in the URL name the authority's certificate." in failure


async def test_postgres_that_speaks_no_tls_is_said(larder: Larder, own_servers: Mapping[str, str]) -> None:
    """A required TLS that the server does not know ends the start with what to do."""
    port = _free_port()
    server = await start_postgres(larder.directory / "postgres", options={"listen_addresses": "127.0.0.1", "port": str(port)})
    try:
        url = f"postgresql://postgres@127.0.0.1:{port}/larder?sslmode=require"
        failure = await larder.failure("serve", **{**own_servers, "LARDER_DATABASE_URL": url})
    finally:
        await server.stop()
    assert "does not speak TLS" in failure
