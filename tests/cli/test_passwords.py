"""Passwords that are not in the URL, and sentinels, as an operator meets them: what works, and what is said of a mistake."""

from collections.abc import Mapping
from shlex import quote

import httpx
import pytest

from app.private_servers import start_postgres
from app.private_servers.redis_server import free_ports
from tests.cli.larder_process import LIMIT_S, Larder
from tests.harness.sentinels import PASSWORD, SENTINEL_PASSWORD, start_sentinels
from tests.harness.servers import execute

pytestmark = pytest.mark.heavy


async def test_password_of_postgres_by_file_and_command(larder: Larder) -> None:
    """It is read where the settings say, and a password that cannot be read is said with the setting."""
    port = next(iter(free_ports()))
    rules = larder.directory / "hba.conf"
    rules.write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
    larder.directory.chmod(0o755)
    options = {"listen_addresses": "127.0.0.1", "port": str(port), "hba_file": str(rules)}
    server = await start_postgres(larder.directory / "postgres", options=options)
    file = larder.directory / "password"
    url = f"postgresql://postgres@127.0.0.1:{port}/larder"
    try:
        await execute(server.url, "ALTER ROLE postgres PASSWORD 's3cret'")
        file.write_text("s3cret\n")
        status, said = await larder.run("migrate", LARDER_DATABASE_URL=url, LARDER_DATABASE_PASSWORD_FILE=str(file))
        assert status == 0, said
        command = {"LARDER_DATABASE_URL": url, "LARDER_DATABASE_PASSWORD_COMMAND": f"/bin/cat {quote(str(file))}"}
        status, said = await larder.run("migrate", **command)
        assert status == 0, said
        file.write_text("wrong")
        assert "does not let us in" in await larder.failure("migrate", **command)
        file.unlink()
        said = await larder.failure("migrate", **command)
        assert "There is no password for PostgreSQL: the command /bin/cat ended with status 1" in said
        assert "LARDER_DATABASE_PASSWORD_FILE" in said
        both = {**command, "LARDER_DATABASE_PASSWORD_FILE": str(file)}
        assert "exclude each other" in await larder.failure("migrate", **both)
        twice = {**command, "LARDER_DATABASE_URL": url.replace("postgres@", "postgres:s3cret@")}
        assert "without a password" in await larder.failure("migrate", **twice)
    finally:
        await server.stop()


async def test_sentinels_at_the_start(larder: Larder, own_servers: Mapping[str, str]) -> None:
    """A URL of sentinels gives hits; each of its mistakes ends the start with a sentence of its own."""
    directory = larder.directory / "sentinels"
    directory.mkdir()
    async with start_sentinels(directory) as sentinels:
        patient = {"LARDER_REDIS_TIMEOUT_MS": "5000", "LARDER_REDIS_CONNECT_TIMEOUT_MS": "5000"}
        own = {"LARDER_REDIS_URL": sentinels.url, "LARDER_SENTINEL_PASSWORD": SENTINEL_PASSWORD}
        right = {**own_servers, **patient, **own}
        async with (
            larder.serving("serve", "--migrate", **right) as serving,
            httpx.AsyncClient(base_url=serving.url, timeout=LIMIT_S) as client,
        ):
            assert "does not answer" not in serving.said
            (await client.put("/products/tray", json={"name": "Tray", "price_cents": 1_500})).raise_for_status()

        async def said(**wrong: str) -> str:
            found = await larder.failure("serve", **{**right, **wrong})
            assert PASSWORD not in found
            assert SENTINEL_PASSWORD not in found
            return found

        # The mistake that everybody makes: the data server's password given to the sentinels.
        failure = await said(LARDER_SENTINEL_PASSWORD=f"{PASSWORD}-x")
        assert "it refuses the user or password; the data server's password is not shown to sentinels" in failure
        assert "LARDER_SENTINEL_PASSWORD" in failure
        failure = await said(LARDER_REDIS_URL=sentinels.url.replace("service=larder", "service=lager"))
        assert "no sentinel knows the service 'lager'" in failure
        a_sentinel = f"redis://:{SENTINEL_PASSWORD}@127.0.0.1:{sentinels.sentinels[0].port}/0"
        failure = await said(LARDER_REDIS_URL=a_sentinel, LARDER_SENTINEL_PASSWORD="")
        assert "it is a sentinel, not a data server" in failure
        assert "sentinel_password needs a redis_url that begins with sentinel://" in await said(LARDER_REDIS_URL=a_sentinel)
        data_server = f"sentinel://:{PASSWORD}@127.0.0.1:{sentinels.servers[0].port}/0?service=larder"
        failure = await said(LARDER_REDIS_URL=data_server, LARDER_SENTINEL_PASSWORD=PASSWORD)
        assert "it is a data server, not a sentinel" in failure
        assert "is not a Redis URL" in await said(LARDER_REDIS_URL="sentinel://h1,h2/0")
