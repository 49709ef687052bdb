"""Connections handed out in turn, on real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress

import pytest

from app.server.handover import ConnectionSender


class Parent:
    """A listening socket and its sender, with the workers and clients that a test adds."""

    def __init__(self, opened: ExitStack) -> None:
        self.listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.sender = ConnectionSender(self.listener)
        self._opened = opened

    def worker(self, number: int) -> socket.socket:
        """Add a worker; its end of the channel."""
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
async def parent() -> AsyncIterator[Parent]:
    with ExitStack() as opened:
        parent = Parent(opened)
        yield parent
        parent.sender.close()


async def _received(channel: socket.socket) -> int:
    """The client's port of the next connection that a worker is handed."""
    async with asyncio.timeout(30):
        while True:
            with suppress(BlockingIOError):
                _, [descriptor], _, _ = socket.recv_fds(channel, 1, 1)
                with socket.socket(fileno=descriptor) as connection:
                    port: int = connection.getpeername()[1]
                    return port
            await asyncio.sleep(0)


async def test_each_gets_as_many_as_the_others(parent: Parent) -> None:
    """A burst is dealt out one by one, whoever would be quicker."""
    channels = [parent.worker(number) for number in (1, 2, 3)]
    parent.sender.start()
    ports = [await parent.client() for _ in range(9)]
    assert [await _received(channels[number % 3]) for number in range(9)] == ports


async def test_connections_wait_while_nobody_serves(parent: Parent) -> None:
    """With no worker, and with none left, nothing is accepted; the next worker gets what has waited."""
    parent.sender.start()
    early = await parent.client()
    assert await _received(parent.worker(1)) == early
    parent.sender.remove(1)
    late = await parent.client()
    assert await _received(parent.worker(2)) == late


async def test_worker_that_takes_nothing_is_passed_over(parent: Parent) -> None:
    """Neither a channel whose other end is closed nor one that is full keeps a connection from the next worker."""
    dead, hanging, well = (parent.worker(number) for number in (1, 2, 3))
    dead.close()
    full = parent.sender._channels[2]
    with suppress(BlockingIOError):
        while full.send(b" " * 4_096):
            pass
    parent.sender.start()
    for _ in range(4):
        port = await parent.client()
        assert await _received(well) == port
    assert hanging.recv(1) == b" "


async def test_nothing_is_accepted_after_the_end(parent: Parent) -> None:
    """Once closed, clients are refused, also when a worker comes late."""
    parent.worker(1)
    parent.sender.start()
    address = parent.listener.getsockname()
    parent.sender.close()
    parent.worker(2)
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(address)
