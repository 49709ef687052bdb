"""Who gets the next connection: the workers that serve, one after the other."""

import asyncio
import contextlib
import logging
import socket
from collections import deque

_AT_ONCE = 100
"""Connections that are accepted in one turn of the loop."""
_RELIEF_S = 1.0
_log = logging.getLogger("larder")


class Turns:
    """Accepts connections and hands them out.

    Args:
        listener: bound; it listens when `begin` is called.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._listener.settimeout(0)
        self._lines: dict[int, socket.socket] = {}
        self._order: deque[int] = deque()
        self._begun = False

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, number: int) -> bool:
        return number in self._lines

    def begin(self) -> None:
        """Accept connections, now that the socket listens."""
        self._begun = True
        self._resume()

    def add(self, number: int, line: socket.socket) -> None:
        """Let a worker take part."""
        self._lines[number] = line
        self._order.append(number)
        self._resume()

    def remove(self, number: int) -> None:
        """Let a worker take part no more; connections wait until there is one again."""
        if number in self._lines:
            del self._lines[number]
            self._order.remove(number)
            if not self._order:
                self._pause()

    def close(self) -> None:
        """Accept nothing more."""
        self._begun = False
        self._pause()
        self._listener.close()

    def _pause(self) -> None:
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)

    def _resume(self) -> None:
        if self._begun and self._order:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                # Out of descriptors, most likely: to try again at once would only burn the processor.
                _log.warning("connections wait, none can be accepted: %s", error)
                self._pause()
                asyncio.get_running_loop().call_later(_RELIEF_S, self._resume)
                return
            with connection:
                self._hand_over(connection)

    def _hand_over(self, connection: socket.socket) -> None:
        for _ in range(len(self._order)):
            line = self._lines[self._order[0]]
            self._order.rotate(-1)
            # It is about to end, or has not taken so many that the line is full: the next one, then.
            with contextlib.suppress(OSError):
                socket.send_fds(line, [b"c"], [connection.fileno()])
                return
