"""The wheel `larder-cache`, and an environment with nothing but it."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment, in a directory outside of the checkout where programs run."""

    directory: Path

    @property
    def python(self) -> Path:
        return self.directory / "venv" / "bin" / "python"

    def run(self, script: str, *, database_url: str = "", redis_url: str = "") -> str:
        """Run a script, and return what it prints. Fails unless the script succeeds, without a warning."""
        path = self.directory / "script.py"
        path.write_text(script, encoding="utf-8")
        ended = subprocess.run(
            [self.python, "-I", "-W", "error", path],
            cwd=self.directory,
            env={"DATABASE_URL": database_url, "REDIS_URL": redis_url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


@pytest.fixture(scope="session")
def outside() -> Iterator[Path]:
    """A directory outside of the checkout."""
    with TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def wheel(outside: Path) -> Path:
    """The wheel, as `make wheel` makes it."""
    subprocess.run(["make", "wheel", f"DIST={outside}"], cwd=ROOT, check=True)
    [wheel] = outside.glob("larder_cache-*.whl")
    return wheel


@pytest.fixture(scope="session")
def alone(outside: Path, wheel: Path) -> Environment:
    """An environment with the wheel and what it declares, from the package index; psycopg brings its own libpq."""
    environment = Environment(outside)
    subprocess.run([sys.executable, "-m", "venv", outside / "venv"], check=True)
    pip = [str(environment.python), "-m", "pip", "--disable-pip-version-check", "install", "-qq", "--only-binary", ":all:"]
    subprocess.run([*pip, str(wheel), "psycopg[binary]"], check=True)
    return environment
