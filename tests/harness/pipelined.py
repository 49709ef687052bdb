"""A client for many GETs at once that takes little processor time: a connection gets all its requests in one write.

It returns the status of an answer, the version in its ETag, and whether it was a hit; bodies are skipped.
"""

import re
import socket
from collections.abc import Sequence
from typing import NamedTuple

from tests.harness.proxy import HOST

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_VERSION = re.compile(rb'\r\netag: "(\d+)"', re.IGNORECASE)
_HIT = b"\r\ncache-status: larder; hit\r\n"
_PIECE_BYTES = 1 << 18


class Shown(NamedTuple):
    """What an answer shows."""

    status: int
    version: int
    """0 if the answer has no ETag."""
    hit: bool


class Pipeline:
    """A connection to a service. After a failure it is opened again with the next requests."""

    def __init__(self, port: int, timeout_s: float) -> None:
        self._address = HOST, port
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._left = 0

    def send(self, paths: Sequence[str]) -> None:
        """Ask for these paths. The answers must be taken by ``receive`` before the next call."""
        request = "".join(f"GET {path} HTTP/1.1\r\nhost: {HOST}:{self._address[1]}\r\n\r\n" for path in paths)
        self._left = len(paths)
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, self._timeout_s)
            self._socket.sendall(request.encode())
        except OSError:
            self.close()

    def receive(self) -> list[Shown]:
        """Return the answers in the order of the paths; those that did not come are missing at the end."""
        answers: list[Shown] = []
        while self._socket is not None and len(answers) < self._left:
            try:
                piece = self._socket.recv(_PIECE_BYTES)
            except OSError:
                piece = b""
            if not piece:
                self.close()
                break
            self._buffer += piece
            self._take(answers)
        return answers

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""

    def _take(self, answers: list[Shown]) -> None:
        """Move the answers that are whole from the buffer to the list."""
        start = 0
        while (end := self._buffer.find(b"\r\n\r\n", start)) >= 0:
            head = self._buffer[start : end + 2]
            length = _LENGTH.search(head)
            after = end + 4 + (int(length[1]) if length else 0)
            if after > len(self._buffer):
                break
            version = _VERSION.search(head)
            answers.append(Shown(int(head[9:12]), int(version[1]) if version else 0, _HIT in head))
            start = after
        self._buffer = self._buffer[start:]
