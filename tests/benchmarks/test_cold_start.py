"""The reads of the cold start, and its row."""

import asyncio
from contextlib import suppress

from benchmarks.contest.contenders import LARDER
from benchmarks.steady.cold_start import ColdStart
from benchmarks.steady.reader import Second, reading
from tests.harness.proxy import HOST


def second(*, hits: int, answers: int) -> Second:
    """A second of answers that took 10 ms each."""
    found = Second(hits)
    found.statuses[200] = answers
    found.from_due_s = found.from_sent_s = [0.01] * answers
    return found


def test_row_of_a_cold_start() -> None:
    """A cold start ends with the first second that has enough hits; one that never has has no time."""
    cold, warm = (second(hits=0, answers=80), 0.0), (second(hits=100, answers=100), 1.0)
    row = ColdStart(LARDER, [cold, warm], 30, 1_000, 100).row()
    assert (row["99 % hits after s"], row["reads/s"], row["reads for each statement"], row["wrong"]) == (2, 90, 6, 0)
    assert row["best_s"] == 46
    assert ColdStart(LARDER, [cold], 30, 1_000, 100).row()["99 % hits after s"] is None


async def test_reader_counts_hits_and_statuses() -> None:
    """Each answer counts once, however it is cut into packets; reads that are due wait for a free connection."""
    paths = iter(range(1_000_000))
    serving = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                number = int(request.split()[1][1:])
                status, cache = (200, b"hit") if number % 2 else (404, b"fwd=miss")
                writer.write(b"HTTP/1.1 %d X\r\nCache-Status: x\r\ncache-status: larder; %b\r\nContent-" % (status, cache))
                await writer.drain()
                await asyncio.sleep(0)
                writer.write(b"Length: 5\r\n\r\nab")
                await writer.drain()
                writer.write(b"cde")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    found = Second()
    async with server, reading(port, lambda: f"/{next(paths)}", 2_000, 2) as reader, asyncio.timeout(20):
        while found.answers < 100:
            await asyncio.sleep(0.05)
            more = reader.take()
            found.hits += more.hits
            found.statuses += more.statuses
            found.from_due_s += more.from_due_s
    async with asyncio.timeout(20):
        await asyncio.gather(*filter(None, serving))  # or their sockets would outlive the loop
    assert set(found.statuses) == {200, 404}
    assert found.statuses.total() == found.answers
    assert found.hits == found.statuses[200]
