"""Connections handed out in turn, on real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress

import pytest

from app.server.handover import ConnectionSender


class Shop:
    """A listening socket, its sender, and clients that connect one after the other."""

    def __init__(self, opened: ExitStack) -> None:
        self.listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.sender = ConnectionSender(self.listener)
        self._opened = opened

    def worker(self, number: int) -> socket.socket:
        """A worker that takes part: its end of the line."""
        ours, theirs = (self._opened.enter_context(end) for end in socket.socketpair())
        ours.settimeout(0)
        theirs.settimeout(0)
        self.sender.add(number, ours)
        return theirs

    async def client(self) -> int:
        """Connect; the client's port."""
        client = self._opened.enter_context(socket.socket())
        client.settimeout(0)
        await asyncio.get_running_loop().sock_connect(client, self.listener.getsockname())
        port: int = client.getsockname()[1]
        return port


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
async def shop(opened: ExitStack) -> AsyncIterator[Shop]:
    shop = Shop(opened)
    yield shop
    shop.sender.close()


async def _taken(line: socket.socket) -> int:
    """The client's port of the next connection that a worker is handed."""
    async with asyncio.timeout(30):
        while True:
            try:
                _, [descriptor], _, _ = socket.recv_fds(line, 1, 1)
            except BlockingIOError:
                await asyncio.sleep(0)
                continue
            with socket.socket(fileno=descriptor) as connection:
                port: int = connection.getpeername()[1]
                return port


async def test_each_gets_as_many_as_the_others(shop: Shop) -> None:
    """A burst is dealt out one by one, whoever would be quicker."""
    lines = [shop.worker(number) for number in (1, 2, 3)]
    shop.sender.start()
    ports = [await shop.client() for _ in range(9)]
    assert [await _taken(lines[turn % 3]) for turn in range(9)] == ports


async def test_connections_wait_while_nobody_serves(shop: Shop) -> None:
    """With no worker, and with none left, nothing is accepted; the next worker gets what has waited."""
    shop.sender.start()
    early = await shop.client()
    line = shop.worker(1)
    assert await _taken(line) == early
    shop.sender.remove(1)
    late = await shop.client()
    assert await _taken(shop.worker(2)) == late


async def test_worker_that_takes_nothing_is_passed_over(shop: Shop) -> None:
    """Neither a line whose other end is closed nor one that is full keeps a connection from the next worker."""
    dead, hanging, well = (shop.worker(number) for number in (1, 2, 3))
    dead.close()
    full = shop.sender._channels[2]
    with suppress(BlockingIOError):
        while full.send(b" " * 4_096):
            pass
    shop.sender.start()
    for _ in range(4):
        port = await shop.client()
        assert await _taken(well) == port
    assert hanging.recv(1) == b" "


async def test_nothing_is_accepted_after_the_end(shop: Shop) -> None:
    """Once closed, clients are refused, also when a worker comes late."""
    shop.worker(1)
    shop.sender.start()
    address = shop.listener.getsockname()
    shop.sender.close()
    shop.worker(2)
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(address)
