"""The service of `examples/rates.py`, as somebody wrote it with the wheel and the guide alone."""

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tests.harness.faultlog import FaultLog
from tests.harness.faults import KINDS, Kind, Scene
from tests.harness.history import HAND_BOUNDS, History
from tests.harness.workload import Load, Workload
from tests.wheel.conftest import ROOT
from tests.wheel.hotel import Clients, start_hotel

pytestmark = pytest.mark.slow

SEED = 20_261_128
NEEDS_PRODUCTS = {"redis-other", "two-databases", "redis-evict", "rows-held", "ledger-locked", "sql-update", "sql-delete"}
"""Kinds of faults that are made for Larder's own tables."""
FAULTS: list[Kind] = [kind for kind in KINDS if kind.name not in NEEDS_PRODUCTS]


@pytest.fixture(scope="session")
def site(outside: Path, wheel: Path) -> Path:
    """A directory with what the wheel installs, for programs that have its requirements already."""
    site = outside / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
    subprocess.run([*pip, "--no-index", "--no-deps", "--target", site, wheel], check=True)
    return site


@pytest.mark.heavy
def test_types(outside: Path, site: Path) -> None:
    """The strictest checks of types pass on the service, with the types that the wheel brings."""
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", outside / "mypy", ROOT / "examples" / "rates.py"],
        cwd=outside,
        env=os.environ | {"MYPYPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.alone
@pytest.mark.guarantee("G1", "G2", "G3")
async def test_outages(servers_directory: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Redis, PostgreSQL or the service broken, no read shows the past, and without Redis alone no request fails."""
    log, chance = FaultLog(), Random(SEED)
    history = History(log, HAND_BOUNDS)
    directory = servers_directory / "hotel"
    directory.mkdir()
    monkeypatch.syspath_prepend(str(site))
    async with start_hotel(directory, site, migration_of(ROOT / "examples" / "rates.py")) as cluster:
        clients = Clients(cluster, history, chance)
        await clients.until_trusted()
        scene = Scene(cluster, Workload(cluster, history, log, Load(), chance), history, log, chance)
        clients.start()
        for kind in FAULTS:
            await kind.act(scene, chance.choice(cluster.instances))
            await clients.until_trusted()
        await clients.stop()
    judgement = history.judge()
    statuses = Counter(read.status for read in history.reads)
    assert judgement.violations == [], [*judgement.violations[:5], *judgement.excerpt]
    assert judgement.verdict.checked > 3_000, statuses
    assert statuses["hit"] > judgement.verdict.checked * 0.3, statuses
    assert judgement.verdict.bound > 1_000, statuses


def migration_of(service: Path) -> tuple[str, ...]:
    """Return the statements that prepare a service's database."""
    spec = importlib.util.spec_from_file_location("rates", service)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    migration: tuple[str, ...] = module.MIGRATION
    return migration
