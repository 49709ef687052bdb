"""Three PostgreSQL nodes that Patroni manages, with an etcd that chooses the primary, and an HAProxy that leads to it."""

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from app.private_servers import ServerFailed
from app.private_servers.account import give, server_account
from app.private_servers.process import ServerProcess
from tests.harness.haproxy import HOST, free_port, haproxy_program, start_haproxy

TTL_S = 10
"""How long a primary may be silent."""
_POSTGRES = Path("/usr/lib/postgresql/15/bin")
_POLL_S = 0.1
_READY_S = 120.0
ETCD_READY_S = 20.0
"""How long etcd may take to start on a slow machine."""
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
_LEADS = frozenset({"leader", "master"})


def missing_programs() -> list[str]:
    """Return the programs that are not installed."""
    names = {"etcd": "etcd-server", "patroni": "patroni"}
    missing = [package for name, package in names.items() if shutil.which(name) is None]
    return missing + ([] if haproxy_program() else ["haproxy"]) + ([] if _POSTGRES.is_dir() else ["postgresql-15"])


class EtcdLate(Exception):
    """Etcd did not start in time, so there are no nodes."""


class Node:
    """One PostgreSQL and its Patroni."""

    def __init__(self, number: int, directory: Path, etcd_port: int) -> None:
        self.name = f"node{number}"
        self.port = free_port()
        self.api = f"http://{HOST}:{free_port()}"
        self._data = directory / self.name / "data"
        self._file = directory / self.name / "patroni.json"
        self._etcd_port = etcd_port
        self._process: ServerProcess | None = None

    async def start(self) -> None:
        """Start Patroni, which starts PostgreSQL."""
        directory, account = self._file.parent, server_account()
        directory.mkdir(exist_ok=True)
        self._file.write_text(json.dumps(self._configuration()))
        give(directory, account, self._file)
        environment = {**_ENVIRONMENT, "HOME": str(directory)}
        self._process = ServerProcess(
            [str(shutil.which("patroni")), str(self._file)],
            log=directory / "patroni.log",
            user=account,
            environment=environment,
        )
        await self._process.until_ready(self._answers, deadline_s=_READY_S)

    async def kill(self) -> None:
        """End PostgreSQL and Patroni at once, as a crash of their machine would."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.kill()

    def pause(self) -> None:
        """Let the machine hang."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a ``pause``."""
        self._signal(signal.SIGCONT)

    async def stop(self) -> None:
        """End both."""
        self.resume()
        if self._process is not None:
            await self._process.stop(signal.SIGTERM, patience_s=20)
        await self.kill()

    def log_tail(self) -> str:
        """Return the last lines of Patroni's log."""
        return self._process.log_tail() if self._process is not None else ""

    def _signal(self, number: signal.Signals) -> None:
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _family(self) -> Sequence[psutil.Process]:
        """Return the postmaster, its children and Patroni. The postmaster is no child of Patroni."""
        found: list[psutil.Process] = []
        with suppress(OSError, ValueError, psutil.Error):
            postmaster = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
            if str(self._data) in postmaster.cmdline():
                found += [postmaster, *postmaster.children(recursive=True)]
        if self._process is not None and not self._process.ended():
            with suppress(psutil.Error):
                patroni = psutil.Process(self._process.pid)
                found = [patroni, *patroni.children(recursive=True), *found]
        return found

    def _answers(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.api}/liveness", timeout=1).status_code == httpx.codes.OK
        return False

    def _configuration(self) -> Mapping[str, object]:
        place = f"{HOST}:{self.port}"
        api = self.api.removeprefix("http://")
        user = {"username": "postgres", "password": "of-the-nodes"}
        return {
            "scope": "larder",
            "name": self.name,
            "restapi": {"listen": api, "connect_address": api},
            # By its older protocol: with the newer one Patroni 3.0.2 may lose its key of the synchronous standby after a pause.
            "etcd": {"hosts": [f"{HOST}:{self._etcd_port}"]},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_S,
                    "loop_wait": 1,
                    "retry_timeout": 3,
                    # Without it an acknowledged write may be lost with its primary, and no cache can bring it back.
                    "synchronous_mode": True,
                    "postgresql": {"use_pg_rewind": True, "parameters": {"max_connections": 120, "wal_log_hints": "on"}},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}],
                "pg_hba": ["local all all trust", f"host all all {HOST}/32 trust", f"host replication all {HOST}/32 trust"],
            },
            "postgresql": {
                "listen": place,
                "connect_address": place,
                "data_dir": str(self._data),
                "bin_dir": str(_POSTGRES),
                "pgpass": str(self._file.with_name("pgpass")),
                "authentication": {"superuser": user, "replication": user, "rewind": user},
                "parameters": {"unix_socket_directories": "", "fsync": "off"},
            },
        }


class PatroniCluster:
    """The nodes, running. ``start_patroni`` makes it."""

    def __init__(self, nodes: Sequence[Node], proxy_port: int) -> None:
        self.nodes = nodes
        self._proxy_port = proxy_port

    def url(self, database: str) -> str:
        """Return the URL that names all nodes."""
        places = ",".join(f"{HOST}:{node.port}" for node in self.nodes)
        return f"postgresql://postgres@{places}/{database}?target_session_attrs=primary&sslmode=disable"

    def proxied_url(self, database: str) -> str:
        """Return the URL that leads through HAProxy."""
        return f"postgresql://postgres@{HOST}:{self._proxy_port}/{database}?sslmode=disable"

    async def primary(self, other_than: Node | None = None) -> Node:
        """Wait until the nodes name a primary other than one, and return it. Raises ``TimeoutError``."""
        async with asyncio.timeout(_READY_S):
            while True:
                for member in await self._members(other_than):
                    if member["role"] in _LEADS and member["state"] == "running":
                        found = next(node for node in self.nodes if node.name == member["name"])
                        if found is not other_than and await self._leads(found):
                            return found
                await asyncio.sleep(_POLL_S)

    async def until_whole(self) -> None:
        """Wait until there is a primary, and the others follow it, one of them synchronously. Raises ``TimeoutError``."""
        end = time.monotonic() + _READY_S
        while True:
            members = await self._members(None)
            roles = sorted(member["role"] for member in members if member["state"] in ("running", "streaming"))
            lines = {member.get("timeline") for member in members}
            if len(roles) == len(self.nodes) and "sync_standby" in roles and len(lines) == 1 and _LEADS & set(roles):
                return
            if time.monotonic() > end:
                raise TimeoutError(f"the nodes are {members}: {[node.log_tail() for node in self.nodes]}")
            await asyncio.sleep(_POLL_S)

    async def switch_over(self) -> None:
        """Ask for a planned change of the primary."""
        old = await self.primary()
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.post(f"{old.api}/switchover", json={"leader": old.name})
            assert answer.is_success, answer.text

    async def _members(self, ask_no: Node | None) -> Sequence[Mapping[str, Any]]:
        async with httpx.AsyncClient(timeout=2) as client:
            for node in self.nodes:
                if node is not ask_no:
                    with suppress(httpx.HTTPError, ValueError):
                        members: Sequence[Mapping[str, Any]] = (await client.get(f"{node.api}/cluster")).json()["members"]
                        return members
        return ()

    async def _leads(self, node: Node) -> bool:
        async with httpx.AsyncClient(timeout=2) as client:
            with suppress(httpx.HTTPError):
                return (await client.get(f"{node.api}/primary")).status_code == httpx.codes.OK
        return False


@asynccontextmanager
async def start_patroni(directory: Path) -> AsyncIterator[PatroniCluster]:
    """Start etcd, three nodes and HAProxy with their files in ``directory``; stop them at the end. Raises ``EtcdLate``."""
    directory.mkdir()
    directory.chmod(0o711)
    async with AsyncExitStack() as opened:
        etcd = await _start_etcd(directory / "etcd", port := free_port())
        opened.push_async_callback(etcd.stop, signal.SIGTERM, patience_s=10)
        nodes = [Node(number, directory, port) for number in range(3)]
        for node in nodes:
            opened.push_async_callback(node.stop)
            await node.start()
            if node is nodes[0]:
                await PatroniCluster(nodes, 0).primary()
        proxy_directory = directory / "haproxy"
        proxy_directory.mkdir()
        proxy_port = free_port()
        await opened.enter_async_context(start_haproxy(proxy_directory, _proxy_of(nodes, proxy_port), proxy_port))
        running = PatroniCluster(nodes, proxy_port)
        await running.until_whole()
        yield running


async def _start_etcd(directory: Path, port: int) -> ServerProcess:
    directory.mkdir()
    account = server_account()
    give(directory, account)
    here, peers = f"http://{HOST}:{port}", f"http://{HOST}:{free_port()}"
    options = {
        "data-dir": directory / "data",
        "listen-client-urls": here,
        "advertise-client-urls": here,
        "listen-peer-urls": peers,
        "initial-advertise-peer-urls": peers,
        "initial-cluster": f"default={peers}",
        "logger": "zap",
        "enable-v2": "true",
    }
    command = [str(shutil.which("etcd")), *(f"--{name}={value}" for name, value in options.items())]
    process = ServerProcess(command, log=directory / "etcd.log", user=account, environment=_ENVIRONMENT)

    def healthy() -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{here}/health", timeout=1).is_success
        return False

    try:
        await process.until_ready(healthy, deadline_s=ETCD_READY_S)
    except ServerFailed as error:
        raise EtcdLate(f"etcd: {error}") from error
    return process


def _proxy_of(nodes: Sequence[Node], port: int) -> str:
    """Return a configuration of HAProxy that leads to the primary, as Patroni's manual has it."""
    servers = "".join(
        f"    server {node.name} {HOST}:{node.port} maxconn 200 check port {node.api.rpartition(':')[2]}\n" for node in nodes
    )
    return f"""
global
    maxconn 600
defaults
    mode tcp
    timeout connect 1s
    timeout client 1h
    timeout server 1h
listen primary
    bind {HOST}:{port}
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server inter 1s fall 3 rise 2 on-marked-down shutdown-sessions
{servers}"""
