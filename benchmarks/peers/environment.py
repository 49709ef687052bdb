"""The peers' own virtual environment: their packages never come near Larder's."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

from tests.harness.cluster import ROOT, Instance, Program

_DIRECTORY = ROOT / ".venv-bench"
_REQUIREMENTS = ROOT / "benchmarks" / "requirements.txt"
PYTHON = _DIRECTORY / "bin" / "python"
"""Its interpreter; there is one after ``set_up``."""
_STAMP = _DIRECTORY / ".set-up"
# As in app/server/http_server.py, so that nobody's frame costs more than another's.
_LIKE_LARDER = (
    *("--loop", "uvloop", "--http", "httptools", "--ws", "none", "--lifespan", "auto", "--interface", "asgi3"),
    *("--no-access-log", "--no-server-header", "--no-proxy-headers", "--backlog", "2048", "--timeout-keep-alive", "75"),
    *("--log-level", "warning"),
)


def set_up() -> None:
    """Make it from the hashed requirements, unless it is there and of the same requirements.

    Raises:
        subprocess.CalledProcessError: ``venv`` or ``pip`` failed, and said why.
    """
    wanted = hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()
    if _STAMP.is_file() and _STAMP.read_text() == wanted:
        return
    shutil.rmtree(_DIRECTORY, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(_DIRECTORY))
    # So that neither git nor the linter ever looks into it.
    (_DIRECTORY / ".gitignore").write_text("*\n")
    pip = (str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "-qq")
    _run(*pip, "--require-hashes", "--only-binary", ":all:", "--requirement", str(_REQUIREMENTS))
    _STAMP.write_text(wanted)


def command(module: str, port: int) -> list[str]:
    """Give the command that serves ``benchmarks.peers.{module}``, by uvicorn with what Larder's own server is set to."""
    return [str(PYTHON), "-m", "uvicorn", f"benchmarks.peers.{module}:app", "--port", str(port), *_LIKE_LARDER]


def peer(module: str) -> Program:
    """Give the program that serves ``benchmarks.peers.{module}``."""

    def program(instance: Instance, database: str) -> tuple[Sequence[str], Mapping[str, str]]:
        settings = {"PEER_DATABASE_URL": instance.database_url(database), "PEER_REDIS_URL": instance.redis_url}
        return command(module, instance.endpoint.port), settings

    return program


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
