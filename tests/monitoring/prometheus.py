"""Debian's Prometheus with the shipped files, every duration of which is divided by ``SPEED``."""

import asyncio
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

FILES = Path(__file__).parents[2] / "deploy" / "monitoring"
SPEED = 15
"""The shipped configuration scrapes and evaluates every 15 s, so the copy does it every second."""
LIMIT_S = 30.0
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(?<=[\[ ])(\d+)([smhd])(?=[\]\s])")


def program(name: str) -> str:
    """Return the path of a program of the package `prometheus`; skip the test where there is none, but never in CI."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is missing: .ci/run installs it")
        pytest.skip(f"{name} is not installed (on Debian: apt-get install --no-install-recommends prometheus)")
    return found


def faster(text: str) -> str:
    """Return rules, a configuration or a query with every duration divided by ``SPEED``."""
    return _DURATION.sub(lambda found: f"{int(found[1]) * _UNIT_MS[found[2]] // SPEED}ms", text)


class Prometheus:
    """A running Prometheus."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression, as they are now."""
        answer = await self._client.get("/api/v1/query", params={"query": expression})
        found = answer.json()
        assert found["status"] == "success", (expression, found)
        series: list[dict[str, Any]] = found["data"]["result"]
        return series

    async def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        alerts = (await self._client.get("/api/v1/alerts")).json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    async def rules(self) -> list[dict[str, Any]]:
        """Return all rules, with the health of their last evaluation."""
        groups = (await self._client.get("/api/v1/rules")).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@asynccontextmanager
async def run_prometheus(directory: Path, target: str, key: str) -> AsyncIterator[Prometheus]:
    """Run Prometheus on loopback, with the shipped files but for the target, the place of the key, and the durations."""
    name = program("prometheus")
    configuration = (FILES / "prometheus.yml").read_text(encoding="utf-8")
    (directory / "metrics-key").write_text(key)
    for shipped, here in (
        ("larder:8000", target),
        ("/run/larder/metrics-key", str(directory / "metrics-key")),
        # A third of the interval would be too short for a busy machine.
        ("scrape_timeout: 5s", f"scrape_timeout: {SPEED}s"),
    ):
        assert shipped in configuration
        configuration = configuration.replace(shipped, here)
    (directory / "prometheus.yml").write_text(faster(configuration))
    (directory / "rules.yml").write_text(faster((FILES / "rules.yml").read_text(encoding="utf-8")))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (directory / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            name,
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'series'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S) as client:
                async with asyncio.timeout(LIMIT_S):
                    while not await _is_ready(client):
                        assert process.returncode is None, (directory / "prometheus.log").read_text()
                        await asyncio.sleep(0.1)
                yield Prometheus(client)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/-/ready")).status_code == 200
    except httpx.TransportError:
        return False
