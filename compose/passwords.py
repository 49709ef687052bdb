# ruff: noqa: INP001 - a script in the image, not a package
"""The passwords of ``docker compose up``: generated at the first start or taken from ``.env``, and kept in volumes.

This program runs before the servers, in a container without a network, and ends. It writes each of these files atomically:

    /run/passwords/postgresql/password   what the PostgreSQL image sets for its user at its first start
    /run/passwords/postgresql/url        LARDER_DATABASE_URL
    /run/passwords/redis/password        what its health check logs in with
    /run/passwords/redis/redis.conf      the same as configuration, so that it is not in a process list
    /run/passwords/redis/url             LARDER_REDIS_URL

docs/decisions/0006-compose-passwords.md says why.
"""

import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

DIRECTORY = Path("/run/passwords")
READABLE = 0o444
"""Each server runs as an account of its own image, so only the mounted volumes decide who may read."""
RANDOM_BYTES = 24


class PasswordChanged(Exception):
    """``.env`` names another password than the one that was set at the first start."""


def _postgresql(password: str) -> dict[str, str]:
    return {"password": password, "url": f"postgresql://larder:{quote(password, safe='')}@postgres:5432/larder"}


def _redis(password: str) -> dict[str, str]:
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    return {
        "password": password,
        "redis.conf": f'requirepass "{quoted}"\n',
        "url": f"redis://:{quote(password, safe='')}@redis:6379/0",
    }


SERVERS: Mapping[str, tuple[str, Callable[[str], dict[str, str]]]] = {
    "postgresql": ("POSTGRES_PASSWORD", _postgresql),
    "redis": ("REDIS_PASSWORD", _redis),
}


def provide(directory: Path, environ: Mapping[str, str]) -> list[str]:
    """Write the files that are missing below ``directory``, and return a sentence for each server that got a password.

    Raises:
        PasswordChanged: a given password is not the one in use. Nothing was written for that server.
        ValueError: a given password has a character that not every reader of these files accepts.
    """
    said = []
    for server, (variable, files_of) in SERVERS.items():
        given = environ.get(variable, "")
        if not given.isprintable() or " " in given:
            raise ValueError(f"{variable} holds a space or a character that cannot be printed. Choose another password.")
        place = directory / server
        # The URL is written last. If it is missing, the first start was interrupted and no server has used the password yet.
        if (place / "url").exists():
            if given and files_of(given)["url"] != (place / "url").read_text():
                raise PasswordChanged(
                    f"{variable} is not the password that {server} was first started with. Nothing was changed. Take it out of"
                    " .env again, or change the password as docs/OPERATIONS.md says."
                )
            continue
        for name, content in files_of(given or secrets.token_urlsafe(RANDOM_BYTES)).items():
            _write(place / name, content)
        said.append(f"{server}: {'password taken from ' + variable if given else 'password generated'}")
    return said


def _write(path: Path, content: str) -> None:
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    new.write_text(content)
    new.chmod(READABLE)
    new.replace(path)


if __name__ == "__main__":
    try:
        print(*provide(DIRECTORY, os.environ) or ["passwords: kept"], sep="\n")  # noqa: T201 - a command's answer is what it prints
    except (PasswordChanged, ValueError) as error:
        sys.exit(f"passwords: {error}")
