"""TLS of the service's own address: the certificate and its key, which are read again when their files change.

A connection gets the pair that is in use when its handshake begins, and keeps it. A pair that cannot be used replaces nothing.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from app.server.errors import CannotServe
from app.settings import Settings

HANDSHAKE_TIMEOUT_S = 10.0
"""Longest handshake. A client that takes longer loses its connection."""
FAIR_HANDSHAKE_S = 0.3
"""A handshake that takes longer may be ended to make room for another connection."""
CLOSE_TIMEOUT_S = 5.0
"""Longest wait for a client's part in the end of a TLS connection."""
LOOK_S = 5.0
"""Pause between two looks at the files."""
_SETTINGS = "LARDER_TLS_CERTIFICATE and LARDER_TLS_KEY"
_log = logging.getLogger("larder")

_Stamp = tuple[tuple[int, int, int], ...]


class ServerTls:
    """The TLS of a service. ``context`` is for the next connection.

    Args:
        certificate: PEM file of the certificate, followed by those that lead to its root.
        key: PEM file of its key, without a passphrase.

    Raises:
        CannotServe: the files cannot be read, or do not belong together.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate, self._key = certificate, key
        self._stamp = self._look()
        try:
            self.context = self._read()
        except OSError as error:
            raise CannotServe(self._failure(error)) from error

    @classmethod
    def of(cls, settings: Settings) -> "ServerTls | None":
        """Return the TLS of the settings, or ``None`` if they name no certificate. Raises the same errors as the class."""
        if not settings.tls_certificate:
            return None
        return cls(Path(settings.tls_certificate), Path(settings.tls_key))

    async def keep(self) -> None:
        """Look at the files for ever, and use what they hold once they have changed."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await asyncio.to_thread(self.renew)
            except Exception:  # noqa: BLE001 - whatever happens, the next look may find a good pair
                _log.exception("the certificate could not be looked at; the one in use stays")

    def renew(self) -> None:
        """Read the files if they have changed since the last look. An unusable pair is logged once, and the old one stays."""
        stamp = self._look()
        if stamp == self._stamp:
            return
        # The files are looked at before they are read: a change in between is found by the next look.
        self._stamp = stamp
        try:
            self.context = self._read()
        except OSError as error:
            _log.error("%s The certificate in use stays.", self._failure(error))
        else:
            _log.info("the certificate in %s was read again, new connections get it", self._certificate)

    def _look(self) -> _Stamp:
        found = []
        for path in (self._certificate, self._key):
            try:
                status = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(found)

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        # Without the function, OpenSSL would ask the terminal for the passphrase of an encrypted key.
        context.load_cert_chain(self._certificate, self._key, password=lambda: "")
        return context

    def _failure(self, error: OSError) -> str:
        for path in (self._certificate, self._key):
            try:
                path.open("rb").close()
            except OSError as unreadable:
                return f"{path} cannot be read ({unreadable.strerror}). Correct {_SETTINGS}."
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        if reason == "KEY_VALUES_MISMATCH":
            return f"The key in {self._key} does not belong to the certificate in {self._certificate}. Correct {_SETTINGS}."
        return (
            f"{self._certificate} and {self._key} are not a certificate and its key in PEM, without a passphrase ({reason}). "
            f"Correct {_SETTINGS}."
        )


class Handshakes:
    """The handshakes under way. Whoever only connects would otherwise hold a place for ``HANDSHAKE_TIMEOUT_S``.

    Args:
        clock: a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: dict[socket.socket, float] = {}
        """When each one began, in this order."""

    @contextlib.contextmanager
    def under_way(self, connection: socket.socket) -> Iterator[None]:
        """Count a connection's handshake while it lasts."""
        self._began[connection] = self._clock()
        try:
            yield
        finally:
            self._began.pop(connection, None)

    def end_oldest(self) -> bool:
        """End the oldest handshake if it has taken longer than ``FAIR_HANDSHAKE_S``; return whether it did."""
        for connection, began in self._began.items():
            if self._clock() - began <= FAIR_HANDSHAKE_S:
                return False
            del self._began[connection]
            # The socket belongs to its transport, which closes it when it finds the end.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            return True
        return False
