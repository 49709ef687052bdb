"""Connections accepted at a real socket."""

import asyncio
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.server.acceptor import Acceptor


@contextmanager
def _no_more_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open(os.devnull, os.O_RDONLY)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_process_without_descriptors_waits_for_some(caplog: pytest.LogCaptureFixture) -> None:
    """It neither ends nor spins: one line for each pause, and the connection is accepted once there is a descriptor."""
    taken: asyncio.Queue[socket.socket] = asyncio.Queue()
    listener = socket.create_server(("127.0.0.1", 0))
    acceptor = Acceptor(listener, taken.put_nowait, pause_s=0.01)
    with socket.socket() as client:
        client.settimeout(0)
        await asyncio.get_running_loop().sock_connect(client, listener.getsockname())
        with _no_more_descriptors():
            acceptor.resume()
            async with asyncio.timeout(30):
                while len(caplog.records) < 2:
                    await asyncio.sleep(0)
            assert taken.empty()
        async with asyncio.timeout(30):
            with await taken.get() as accepted:
                assert accepted.getpeername() == client.getsockname()
    acceptor.close()


async def test_none_is_accepted_while_it_is_paused() -> None:
    """Connections wait in the kernel meanwhile."""
    taken: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0))
    acceptor = Acceptor(listener, taken.append)
    acceptor.resume()
    acceptor.pause()
    with socket.socket() as client:
        client.settimeout(0)
        await asyncio.get_running_loop().sock_connect(client, listener.getsockname())
        for _ in range(10):
            await asyncio.sleep(0)
        assert taken == []
        acceptor.resume()
        async with asyncio.timeout(30):
            while not taken:
                await asyncio.sleep(0)
        taken[0].close()
    acceptor.close()
