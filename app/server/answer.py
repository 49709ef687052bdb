"""The transport as one answer sees it: the head and the first part of the body are written together.

uvicorn writes them one after the other. Each write is a system call that wakes the client, which costs both sides more than
the copy.
"""

import asyncio

from typing_extensions import override


class AnswerTransport(asyncio.Transport):
    """Writes to the connection's own transport. The first piece is kept until the second comes, or the event loop goes on."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._kept: bytes | None = None
        self._begun = False

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._begun:
            self._begun = True
            self._kept = bytes(data)
            self._loop.call_soon(self._write_kept)
        elif self._kept is not None:
            kept, self._kept = self._kept, None
            self._transport.write(kept + data)
        else:
            self._transport.write(data)

    @override
    def close(self) -> None:
        self._write_kept()
        self._transport.close()

    @override
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def _write_kept(self) -> None:
        if self._kept is not None:
            kept, self._kept = self._kept, None
            if not self._transport.is_closing():
                self._transport.write(kept)
