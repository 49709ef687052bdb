"""The handover of connections from the parent, which accepts them, to the workers, which serve them.

A *channel* is a socket pair between the parent and one worker. The worker first sends a report: ``SERVING``, or the reason why
it cannot serve. Then the parent sends connections, each as one byte with a file descriptor. The kernel closes a channel when
either process ends, so each side notices that the other one is dead, whatever the cause.
"""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Self

from app.server.acceptor import Acceptor

SERVING = b"serving\n"


class ConnectionSender:
    """The parent's end of all channels. It accepts connections and hands each to the next worker in turn.

    Args:
        listener: a bound socket, which listens by the time ``start`` is called.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._acceptor = Acceptor(listener, self._send)
        self._channels: dict[int, socket.socket] = {}
        self._order: deque[int] = deque()
        self._started = False

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, number: int) -> bool:
        return number in self._channels

    def start(self) -> None:
        """Accept connections whenever there is a worker."""
        self._started = True
        self._resume()

    def add(self, number: int, channel: socket.socket) -> None:
        """Include a worker."""
        self._channels[number] = channel
        self._order.append(number)
        self._resume()

    def remove(self, number: int) -> None:
        """Leave a worker out from now on. While there is none, connections wait in the kernel."""
        if number in self._channels:
            del self._channels[number]
            self._order.remove(number)
            if not self._order:
                self._acceptor.pause()

    def close(self) -> None:
        """Close the listening socket."""
        self._started = False
        self._acceptor.close()

    def _resume(self) -> None:
        if self._started and self._order:
            self._acceptor.resume()

    def _send(self, connection: socket.socket) -> None:
        with connection:
            for _ in range(len(self._order)):
                channel = self._channels[self._order[0]]
                self._order.rotate(-1)
                # This worker is gone, or its channel is full of connections that it has not taken: try the next one.
                with contextlib.suppress(OSError):
                    socket.send_fds(channel, [b"c"], [connection.fileno()])
                    return


class ConnectionReceiver:
    """A worker's end of its channel. It is a context manager: within the context it passes on each connection that arrives.

    Args:
        channel: the socket to the parent.
        adopt: is called with each connection.
        on_orphaned: is called once, when the parent is dead.
    """

    def __init__(self, channel: socket.socket, adopt: Callable[[socket.socket], None], on_orphaned: Callable[[], None]) -> None:
        self.orphaned = False
        self._channel = channel
        self._channel.settimeout(0)
        self._adopt = adopt
        self._on_orphaned = on_orphaned

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._channel, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._channel)

    async def report(self, report: bytes) -> None:
        """Send the parent the report that this worker serves, or why it cannot."""
        with contextlib.suppress(OSError):  # the parent is dead, which ``_receive`` notices
            await asyncio.get_running_loop().sock_sendall(self._channel, report)

    def _receive(self) -> None:
        while True:
            try:
                # Each byte comes with one descriptor. A longer read could return the descriptors of several.
                byte, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
            except BlockingIOError:
                return
            except OSError:
                byte, descriptors = b"", []
            if not byte:
                asyncio.get_running_loop().remove_reader(self._channel)
                if not self.orphaned:
                    self.orphaned = True
                    self._on_orphaned()
                return
            for descriptor in descriptors:
                self._adopt(socket.socket(fileno=descriptor))


async def report_of(channel: socket.socket) -> bytes:
    """Wait for a worker's report and return it.

    Any other report than ``SERVING`` is final; it is empty if the worker died silently.
    """
    report = b""
    while report != SERVING and (part := await asyncio.get_running_loop().sock_recv(channel, 4_096)):
        report += part
    return report
