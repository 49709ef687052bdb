"""Run a command against other servers: `python -m tests.harness.other_servers --postgres DIR --redis PROGRAM -- COMMAND…`.

The servers are started from the given programs, on a socket and a port of their own. The command gets them in
LARDER_DATABASE_URL and LARDER_REDIS_URL. They are stopped when it ends. The exit status is the command's.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from app.private_servers import start_postgres, start_redis
from tests.harness.servers import session_directory


async def main() -> int:
    """Start the servers, run the command, and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.harness.other_servers")
    parser.add_argument("--postgres", type=Path, help="directory with initdb and postgres (default: the extra's)")
    parser.add_argument("--redis", type=Path, help="the Redis server's program (default: the extra's)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    arguments = parser.parse_args()
    async with session_directory() as directory:
        postgres = await start_postgres(directory / "postgres", options={"fsync": "off"}, programs=arguments.postgres)
        try:
            redis = await start_redis(directory / "redis", program=arguments.redis)
            try:
                environment = {**os.environ, "LARDER_DATABASE_URL": postgres.url, "LARDER_REDIS_URL": redis.url}
                command = [word for word in arguments.command if word != "--"]
                process = await asyncio.create_subprocess_exec(*command, env=environment)
                return await process.wait()
            finally:
                await redis.stop()
        finally:
            await postgres.stop()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
