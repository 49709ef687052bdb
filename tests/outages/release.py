"""A release of Larder in a checkout, run as a program of a cluster."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.harness.cluster import NAMESPACE, ROOT, Cluster, Instance, larder


@dataclass(frozen=True, slots=True)
class Release:
    """A checkout, and the cache namespace that its instances use."""

    root: Path = ROOT
    namespace: str = NAMESPACE
    knows_keys: bool = True
    """Whether it has the setting LARDER_ACCESS."""

    def program(self, instance: Instance, database: str) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return command and environment of an instance. This is a ``Program``."""
        _, settings = larder(instance, database)
        known = {name: value for name, value in settings.items() if self.knows_keys or name != "LARDER_ACCESS"}
        return self._larder("serve"), {**known, "LARDER_CACHE_NAMESPACE": self.namespace}

    async def command(self, cluster: Cluster, *arguments: str) -> None:
        """Run a command of the release on the cluster's servers without a proxy.

        Raises:
            RuntimeError: it failed.
        """
        settings = {
            "LARDER_DATABASE_URL": cluster.url,
            "LARDER_REDIS_URL": cluster.redis.url,
            "LARDER_CACHE_NAMESPACE": self.namespace,
        }
        process = await asyncio.create_subprocess_exec(
            *self._larder(*arguments), env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"larder {' '.join(arguments)}: {said.decode()}")

    def _larder(self, *arguments: str) -> Sequence[str]:
        line = (
            f"import sys; sys.path.insert(0, {str(self.root)!r}); from app.cli import main; sys.exit(main({list(arguments)!r}))"
        )
        return sys.executable, "-c", line
