"""The acceptor of connections at one listening socket."""

import asyncio
import logging
import socket
from collections.abc import Callable

_ACCEPTED_AT_ONCE = 16
"""Most connections that are accepted before the event loop runs anything else. Connections that were closed for them give
their descriptors back only then."""
_log = logging.getLogger("larder")


class Acceptor:
    """Accepts connections while it is switched on. The others wait in the kernel.

    Args:
        listener: a bound socket, which listens by the time ``resume`` is called.
        take: is called with each connection, which then belongs to it.
        pause_s: the pause after a connection could not be accepted.
    """

    def __init__(self, listener: socket.socket, take: Callable[[socket.socket], None], pause_s: float = 1.0) -> None:
        self._listener = listener
        self._listener.settimeout(0)
        self._take = take
        self._pause_s = pause_s
        self._on = False

    def resume(self) -> None:
        """Accept connections."""
        self._on = True
        self._watch()

    def pause(self) -> None:
        """Accept none."""
        self._on = False
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)

    def close(self) -> None:
        """Close the listening socket."""
        self.pause()
        self._listener.close()

    def _watch(self) -> None:
        if self._on:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                # Most likely the process is out of file descriptors, and an immediate retry would fail as well.
                _log.warning("connections wait, none can be accepted: %s", error)
                asyncio.get_running_loop().remove_reader(self._listener)
                asyncio.get_running_loop().call_later(self._pause_s, self._watch)
                return
            self._take(connection)
