"""``larder follow`` and the stream of the feed, with real processes."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import psycopg
import pytest

from tests.cli.larder_process import LIMIT_S, Larder

QUICK = {"LARDER_AUDIT_INTERVAL_MS": "50", "LARDER_FENCE_TTL_MS": "600", "LARDER_FENCE_TTL_MAX_MS": "600"}
STREAM = {"Accept": "text/event-stream"}


async def _frames(response: httpx.Response) -> AsyncIterator[dict[str, str]]:
    """The frames of a stream, each as its fields."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if not line:
            yield fields
            fields = {}
        else:
            name, _, value = line.partition(": ")
            fields[name] = value


async def _events(frames: AsyncIterator[dict[str, str]], count: int) -> tuple[list[dict[str, Any]], str]:
    """The next events of a stream, and the last id."""
    found: list[dict[str, Any]] = []
    last = ""
    while len(found) < count:
        frame = await asyncio.wait_for(anext(frames), LIMIT_S)
        last = frame.get("id", last)
        if "data" in frame:
            found.append(json.loads(frame["data"]))
            assert found[-1]["type"] == frame["event"]
    return found, last


async def _lines(process: asyncio.subprocess.Process, count: int) -> list[dict[str, Any]]:
    assert process.stdout is not None
    return [json.loads(await asyncio.wait_for(process.stdout.readline(), LIMIT_S)) for _ in range(count)]


async def _cursor(client: httpx.AsyncClient) -> str:
    """The present cursor, once an audit of this history has completed."""
    async with asyncio.timeout(LIMIT_S):
        while (answer := await client.get("/changes")).status_code == httpx.codes.SERVICE_UNAVAILABLE:
            await asyncio.sleep(0.05)
    return str(answer.json()["next"])


async def _put(client: httpx.AsyncClient, product_id: str) -> None:
    answer = await client.put(f"/products/{product_id}", json={"name": "Mug", "price_cents": 1, "stock": 1})
    answer.raise_for_status()


@pytest.mark.guarantee("R11")
async def test_followed_by_processes_and_streams(larder: Larder, own_servers: Mapping[str, str]) -> None:
    """The command prints events, goes on from its file, and says when it cannot. A stream has the same events, is resumed by
    the id that it gave, and ends before the requests when the service stops.
    """
    async with (
        larder.serving("serve", **own_servers, **QUICK) as serving,
        httpx.AsyncClient(base_url=serving.url, timeout=LIMIT_S) as client,
    ):
        (larder.directory / "cursor").write_text(await _cursor(client), encoding="ascii")
        arguments = ("follow", "--url", serving.url, "--cursor-file", "cursor")
        follower = await larder.start(*arguments)
        async with client.stream("GET", "/changes?types=product", headers=STREAM) as stream:
            frames = _frames(stream)
            assert stream.headers["X-Accel-Buffering"] == "no"
            assert (await anext(frames))["retry"] == "1000"
            await _put(client, "a")
            [event], last = await _events(frames, 1)
        assert event == {"type": "product", "id": "a", "version": 1, "product": (await client.get("/products/a")).json()}
        assert [line["type"] for line in await _lines(follower, 2)] == ["product", "movement"]
        follower.terminate()
        await follower.communicate()
        await _put(client, "b")
        again = await larder.start(*arguments)
        assert [line["type"] for line in await _lines(again, 2)] == ["product", "movement"]
        async with client.stream("GET", "/changes?types=product", headers=STREAM | {"Last-Event-ID": last}) as stream:
            frames = _frames(stream)
            [event], _ = await _events(frames, 1)
            assert event["id"] == "b"
            async with await psycopg.AsyncConnection.connect(own_servers["LARDER_DATABASE_URL"], autocommit=True) as hand:
                await hand.execute("TRUNCATE products")
            said, _ = await asyncio.wait_for(again.communicate(), LIMIT_S)
            assert again.returncode == 3
            assert b"remove cursor, read everything" in said
            while await anext(frames, None):
                pass  # the stream of the old history ends
        await _cursor(client)
        (larder.directory / "cursor").write_text("nonsense", encoding="ascii")
        refused = await larder.start(*arguments)
        said, _ = await asyncio.wait_for(refused.communicate(), LIMIT_S)
        assert refused.returncode == 1
        assert b"cursor does not hold a cursor of " in said
        async with client.stream("GET", "/changes", headers=STREAM) as stream:
            frames = _frames(stream)
            await anext(frames)
            stopped = asyncio.create_task(serving.end(signal.SIGTERM))
            while await asyncio.wait_for(anext(frames, None), 10) is not None:
                pass
        assert await stopped == 0
