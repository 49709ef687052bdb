"""What the figures were measured on."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from app.private_servers.binaries import postgres_directory, redis_program

_LIBRARIES = ("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "sqlalchemy", "psycopg", "redis", "hiredis", "pydantic")
_PEERS = ("cashews", "fastapi-cache2")
_PEERS_LOCK = Path(__file__).with_name("requirements.txt")


def machine() -> dict[str, str]:
    """Describe this machine and the versions, a line each."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": _memory(),
        "system": f"{_system()}, kernel {platform.release()}",
        "PostgreSQL": _first_line(str(postgres_directory() / "postgres"), "--version"),
        "Redis": _first_line(str(redis_program()), "--version"),
        "load generator": _first_line("wrk", "--version"),
        "Python": sys.version.split()[0],
        "libraries": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES),
        "peers": ", ".join(f"{name} {_pinned(name)}" for name in _PEERS),
    }


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _memory() -> str:
    found = re.search(r"^MemTotal:\s*(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    return f"{int(found[1]) / 2**20:.1f} GiB" if found else "unknown"


def _system() -> str:
    found = re.search(r'^PRETTY_NAME="(.+)"$', _read("/etc/os-release"), re.MULTILINE)
    return found[1] if found else platform.system()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _first_line(*command: str) -> str:
    # wrk tells its version and ends with 1.
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.stdout.splitlines()[0].partition("  Copyright")[0].strip()


def _pinned(name: str) -> str:
    found = re.search(rf"^{re.escape(name)}==(\S+)", _PEERS_LOCK.read_text(), re.MULTILINE)
    return found[1] if found else "unknown"
