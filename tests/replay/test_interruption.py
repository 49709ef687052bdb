"""Ctrl-C during a replay, in a process of its own."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from tests.replay.sales import write
from tests.replay.standin import Body, Shop, open_shop


@pytest.mark.parametrize("times", [1, 2], ids=["Ctrl-C", "Ctrl-C twice"])
async def test_interrupted_and_gone_on_with(tmp_path: Path, times: int) -> None:
    """Once: requests under way end and are counted. Twice: they are of unknown fate. The same run id does the rest."""
    file, reached, gate = write(tmp_path, *((str(n), "a", 1) for n in range(50))), asyncio.Event(), asyncio.Event()

    async def hold(number: int, body: Body) -> None:  # noqa: ARG001  # a Fault
        if number == 6:
            reached.set()
        if number >= 5:
            await gate.wait()

    shop = Shop({"a": 100}, after=hold)
    async with open_shop(shop) as url, asyncio.timeout(60):
        words = [str(file), "--url", url, "--clients", "2", "--timeout-s", "300", "--run-id", "held", "--json"]
        process = await start(*words)
        assert process.stderr is not None
        await reached.wait()
        said = ""
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            while "Stopping" not in said:
                said += (await process.stderr.readline()).decode()
        if times == 1:
            gate.set()
        output, rest = await process.communicate()
        gate.set()
        said += rest.decode()
        assert process.returncode == 130, said
        assert "Traceback" not in said
        assert "--run-id held" in said
        summary = json.loads(output)
        assert (summary["accepted"], summary["unknown"]) == ((6, 0) if times == 1 else (4, 2))
        assert len(shop.requests) == 6, "nothing new is begun"
        assert Path(f"{file}.refused.jsonl").exists() == (times == 2)
        again = await start(*words)
        output, _ = await again.communicate()
    assert again.returncode == 0
    assert json.loads(output)["replays"] == 6
    assert shop.stocks == {"a": 50}
    assert not Path(f"{file}.refused.jsonl").exists()


async def start(*words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; from app.cli import main; sys.exit(main())",
        "replay",
        *words,
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
