"""``python -m tests.outages.hostile_clients PORT SECONDS``: clients that open connections and do next to nothing with them.

They run in a process of their own, so that those who measure are not kept waiting by them. At the end it prints one JSON
object: how long each connection lived in seconds, by kind; ``null`` for one that is still open.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import defaultdict, deque
from contextlib import suppress

SILENT, TRICKLING = 1_000, 500
_AT_ONCE = 50
_HALF_HEAD = b"GET /products/mug HTTP/1.1\r\nHost: larder\r\n"
_HALF_BODY = b"PUT /products/pot HTTP/1.1\r\nHost: larder\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
_PIPELINE = b"GET /products/mug HTTP/1.1\r\nHost: larder\r\n\r\n" * 200_000
"""Its answers are more than the kernel keeps for a client that does not read."""
_TRICKLE = {"head": b"a: b\r\n", "body": b"a"}


class _Client(asyncio.Protocol):
    def __init__(self, kind: str, first: bytes) -> None:
        self.kind = kind
        self.lived_s: float | None = None
        self.transport: asyncio.Transport | None = None
        self._first = first

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._began = time.monotonic()
        if self.kind == "unread":
            transport.pause_reading()
        transport.write(self._first)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - as the base class has it
        self.lived_s = time.monotonic() - self._began

    def trickle(self) -> None:
        if self.kind in _TRICKLE and self.transport is not None and not self.transport.is_closing():
            self.transport.write(_TRICKLE[self.kind])


async def attack(port: int, seconds: float) -> dict[str, list[float | None]]:
    """Open every connection and trickle once a second. Return how long they lived."""
    end = time.monotonic() + seconds
    trickling = [("head", _HALF_HEAD), ("body", _HALF_BODY)] * (TRICKLING // 2)
    wanted = deque([("unread", _PIPELINE), *[("silent", b"")] * SILENT, *trickling])
    clients: list[_Client] = []
    while wanted:
        some = [_Client(*wanted.popleft()) for _ in range(min(_AT_ONCE, len(wanted)))]
        await asyncio.gather(*(_open(client, port) for client in some))
        clients += some
    while time.monotonic() < end:
        await asyncio.sleep(1)
        for client in clients:
            client.trickle()
    lived: defaultdict[str, list[float | None]] = defaultdict(list)
    for client in clients:
        lived[client.kind].append(client.lived_s)
        if client.transport is not None:
            client.transport.abort()
    return lived


async def _open(client: _Client, port: int) -> None:
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().create_connection(lambda: client, "127.0.0.1", port)


def main() -> int:
    """Run the clients that the command line describes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    given = parser.parse_args()
    json.dump(asyncio.run(attack(given.port, given.seconds)), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
