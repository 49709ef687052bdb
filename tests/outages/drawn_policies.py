"""``larder serve`` with another write policy for every transaction, drawn at random: the worst mixture of instances.

``python -m tests.outages.drawn_policies`` takes the settings of ``larder serve`` from the environment. ``LARDER_TEST_POLICIES``
has the policies to draw from, separated by commas; all of them if it is empty.
"""

import os
import random
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from app.cache.policies import WritePolicy
from app.cache.write_through import WriteThrough
from app.cli import main
from tests.harness.cluster import Instance, larder

_VARIABLE = "LARDER_TEST_POLICIES"
_write = WriteThrough.write


class Drawn:
    """A ``Program``: the instances of a cluster draw from ``policies``, separated by commas."""

    def __init__(self, policies: str = "") -> None:
        self._policies = policies

    def __call__(self, instance: Instance, database: str) -> tuple[Sequence[str], Mapping[str, str]]:
        _, settings = larder(instance, database)
        return (sys.executable, "-m", "tests.outages.drawn_policies"), {**settings, _VARIABLE: self._policies}


def _serve() -> int:
    names = os.environ.pop(_VARIABLE, "")
    policies = [WritePolicy(name) for name in names.split(",")] if names else list(WritePolicy)
    chance = random.Random()

    async def write(cache: WriteThrough, *arguments: Any, **options: Any) -> Any:
        return await _write(cache, *arguments, **{**options, "policy": chance.choice(policies)})

    type.__setattr__(WriteThrough, "write", write)
    return main(["serve"])


if __name__ == "__main__":
    sys.exit(_serve())
