"""TLS to Redis. The server's certificate is always verified, chain and name. The files are read at each connect."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from typing_extensions import override


@dataclass(frozen=True, slots=True)
class RedisTls:
    """How a connection by ``rediss://`` is verified.

    Attributes:
        ca_file: PEM file of the only authorities that are trusted. The system's are, if it is empty.
        cert_file: PEM file of this side's certificate, if the server asks for one.
        key_file: PEM file of its key.
        name: what the server's certificate must show, if that is not the URL's host.
    """

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    name: str = ""

    def context(self) -> ssl.SSLContext:
        """Return the context of one connection. Raises ``OSError`` if a file cannot be used."""
        context = ssl.create_default_context(cafile=self.ca_file or None)
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file, password=lambda: "")
        return context


class _TlsConnection(Connection):
    def __init__(self, *, tls: RedisTls, **more: Any) -> None:
        super().__init__(**more)
        self._tls = tls

    @override
    def _connection_arguments(self) -> Mapping[str, Any]:
        arguments = {**super()._connection_arguments(), "ssl": self._tls.context()}
        return {**arguments, "server_hostname": self._tls.name or self.host}


def pool_of(url: str, tls: RedisTls, *, connect_timeout_s: float) -> ConnectionPool:
    """Return the pool of a URL, which makes connections without retries. Raises ``ValueError`` for another kind of URL."""
    pool = ConnectionPool.from_url(
        url,
        protocol=2,
        decode_responses=False,
        # Callers have deadlines. With a timeout, redis-py sends by ``wait_for``, which on Python 3.11 can lose a cancellation.
        socket_timeout=None,
        socket_connect_timeout=connect_timeout_s,
        health_check_interval=0,
        retry=Retry(NoBackoff(), 0),
    )
    if issubclass(pool.connection_class, SSLConnection):
        pool.connection_class = _TlsConnection
        pool.connection_kwargs["tls"] = tls
    return pool
