"""The commands of docs/RECOVERY.md, run as they stand there."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from app.private_servers.account import give, server_account
from app.private_servers.binaries import postgres_directory
from tests.harness.cluster import NAMESPACE, ROOT, Cluster

PAGE = ROOT / "docs" / "RECOVERY.md"
_PATH = (str(postgres_directory()), str(Path(sys.executable).parent), os.defpath)


def commands(heading: str) -> list[str]:
    """Return the blocks of commands below a heading of the page, in order.

    Raises:
        LookupError: there are none.
    """
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", _section(heading), re.DOTALL | re.MULTILINE)
    if not blocks:
        raise LookupError(f"{PAGE.name} has no commands under {heading!r}")
    return [dedent(block) for block in blocks]


def messages(heading: str) -> list[re.Pattern[str]]:
    """Return the messages that the page quotes below a heading, in order. For a number the page has an ellipsis."""
    quoted = re.findall(r"^> (.*)$", _section(heading), re.MULTILINE)
    return [re.compile(re.escape(message).replace("…", r"\d+")) for message in quoted]


def _section(heading: str) -> str:
    return PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


@dataclass(frozen=True, slots=True)
class Operator:
    """Whoever carries out the page on the servers of a cluster. PostgreSQL's account owns the directory of the backups."""

    cluster: Cluster
    backups: Path

    async def run(
        self, block: str, *, as_postgres: bool = False, refused: re.Pattern[str] | None = None, **variables: str
    ) -> float:
        """Run a block of commands, each of which must succeed; return the seconds it took.

        Args:
            block: lines for a shell.
            as_postgres: by PostgreSQL's account, as the page says where its files are touched.
            refused: the message with which the block must fail instead.
            variables: further variables of the environment.
        """
        began = time.monotonic()
        done = await asyncio.to_thread(self._run, block, server_account() if as_postgres else None, variables)
        seconds = time.monotonic() - began
        if refused:
            assert done.returncode != 0, done.stdout
            assert refused.search(done.stdout), done.stdout
        else:
            assert done.returncode == 0, f"{block}\n{done.stdout}"
        return seconds

    def _run(self, block: str, user: str | None, variables: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
        environment = {
            "PATH": os.pathsep.join(_PATH),
            "LC_ALL": "C.UTF-8",
            "LARDER_DATABASE_URL": self.cluster.url,
            "LARDER_REDIS_URL": self.cluster.redis.url,
            "LARDER_CACHE_NAMESPACE": NAMESPACE,
            "MAINTENANCE_URL": self.cluster.postgres.url_of("postgres"),
            "RESTORED_URL": self.cluster.postgres.url_of("larder_restored"),
            "BACKUPS": str(self.backups),
            "PGDATA": str(self.cluster.postgres.data_dir),
            **variables,
        }
        return subprocess.run(
            ["/bin/sh", "-eu", "-c", block],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )


def operator(cluster: Cluster) -> Operator:
    """Return an operator with an empty directory for backups. PostgreSQL's account may also move PostgreSQL's files."""
    backups = cluster.directory / "backups"
    backups.mkdir()
    for directory in (backups, cluster.directory):
        give(directory, server_account())
    return Operator(cluster, backups)
