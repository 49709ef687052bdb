"""``larder serve`` that draws a write policy at random for every transaction. ``drawn_policies`` starts it.

It takes the settings of ``larder serve`` from the environment, and the policies from ``LARDER_TEST_POLICIES``, separated by
commas; if that is empty, all of them. It imports nothing of the tests, so that it starts as fast as the service does.
"""

import os
import random
import sys
from typing import Any

from app.cache.policies import WritePolicy
from app.cache.write_through import WriteThrough
from app.cli import main

_write = WriteThrough.write


def _serve() -> int:
    names = os.environ.pop("LARDER_TEST_POLICIES", "")
    policies = [WritePolicy(name) for name in names.split(",")] if names else list(WritePolicy)
    chance = random.Random()

    async def write(cache: WriteThrough, *arguments: Any, **options: Any) -> Any:
        return await _write(cache, *arguments, **{**options, "policy": chance.choice(policies)})

    type.__setattr__(WriteThrough, "write", write)
    return main(["serve"])


if __name__ == "__main__":
    sys.exit(_serve())
