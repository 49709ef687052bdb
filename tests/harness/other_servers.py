"""Run a command against other servers: `python -m tests.harness.other_servers --postgres DIR --redis PROGRAM -- COMMAND…`.

The servers are started from the given programs, on a socket and a port of their own. The command gets them in
LARDER_DATABASE_URL and LARDER_REDIS_URL. They are stopped when it ends. The exit status is the command's. With --pooler a
PgBouncer in transaction mode is in front of PostgreSQL, whose port is in TESTS_POOLER: tests connect to it where Larder would.
"""

import argparse
import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from app.private_servers import start_postgres, start_redis
from tests.harness.pgbouncer import place_of, start_pgbouncer
from tests.harness.servers import session_directory


async def main() -> int:
    """Start the servers, run the command, and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.harness.other_servers")
    parser.add_argument("--postgres", type=Path, help="directory with initdb and postgres (default: the extra's)")
    parser.add_argument("--redis", type=Path, help="the Redis server's program (default: the extra's)")
    parser.add_argument("--pooler", action="store_true", help="start a PgBouncer, too")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    arguments = parser.parse_args()
    async with session_directory() as directory:
        postgres = await start_postgres(directory / "postgres", options={"fsync": "off"}, programs=arguments.postgres)
        try:
            redis = await start_redis(directory / "redis", program=arguments.redis)
            try:
                async with AsyncExitStack() as opened:
                    environment = {**os.environ, "LARDER_DATABASE_URL": postgres.url, "LARDER_REDIS_URL": redis.url}
                    if arguments.pooler:
                        pooler = start_pgbouncer(directory / "pgbouncer", place_of(postgres.url))
                        environment["TESTS_POOLER"] = str((await opened.enter_async_context(pooler)).port)
                    command = [word for word in arguments.command if word != "--"]
                    process = await asyncio.create_subprocess_exec(*command, env=environment)
                    return await process.wait()
            finally:
                await redis.stop()
        finally:
            await postgres.stop()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
