"""Chromium without a window, driven over its DevTools pipe: open a page, evaluate, type, and take a picture."""

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
LIMIT_S = 30.0
_CHUNK = 1 << 20


def program() -> str:
    """Return the path of Chromium; skip the test where there is none, but never in CI."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium is missing: .ci/run installs it")
        pytest.skip("Chromium is not installed")
    return found


class Page:
    """One page of a running Chromium."""

    def __init__(self, writer: asyncio.StreamWriter, session: str, answers: dict[int, "asyncio.Future[Any]"]) -> None:
        self._writer = writer
        self._session = session
        self._answers = answers
        self.messages: list[str] = []
        """What the page wrote to its console, such as refusals by a Content-Security-Policy."""

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call a DevTools method, and return its result."""
        return await _call(self._writer, self._answers, method, parameters, self._session)

    async def open(self, url: str) -> None:
        """Open a URL, and return when the page is complete."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression; a promise is awaited."""
        found = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, condition: str) -> None:
        """Return once a condition holds in the page."""
        async with asyncio.timeout(LIMIT_S):
            while not await self.evaluate(f"Boolean({condition})"):
                await asyncio.sleep(0.02)

    async def click(self, selector: str) -> None:
        """Click the first element of a CSS selector, once it is there."""
        await self.until(f"document.querySelector({selector!r})")
        await self.evaluate(f"document.querySelector({selector!r}).click()")

    async def write(self, selector: str, text: str) -> None:
        """Replace the text of a field as a person would."""
        await self.until(f"document.querySelector({selector!r})")
        await self.evaluate(f"(e => {{ e.focus(); e.select(); }})(document.querySelector({selector!r}))")
        await self.call("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        """Press a key, such as Tab or Enter."""
        text = {"text": "\r"} if key == "Enter" else {}
        code = {"Enter": 13, "Tab": 9}[key]
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **(text if kind == "keyDown" else {}),
            )

    async def picture(self, path: Path, *, width: int = 1200, height: int = 900) -> None:
        """Save a picture of the page, as PNG or as what the name ends with."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        import base64  # noqa: PLC0415 - only here

        kind = {"format": "webp", "quality": 80} if path.suffix == ".webp" else {"format": "png"}
        path.write_bytes(base64.b64decode((await self.call("Page.captureScreenshot", **kind))["data"]))


@asynccontextmanager
async def chromium(*arguments: str) -> AsyncIterator[Page]:
    """Start Chromium with further arguments, and yield a page."""
    path = program()
    with tempfile.TemporaryDirectory(prefix="larder-chromium-", ignore_cleanup_errors=True) as profile:
        commands_read, commands = os.pipe()
        answers, answers_write = os.pipe()
        process = await _started(path, (f"--user-data-dir={profile}", *arguments), commands_read, answers_write)
        os.close(commands_read)
        os.close(answers_write)
        loop = asyncio.get_running_loop()
        waiting: dict[int, asyncio.Future[Any]] = {}
        reader = asyncio.StreamReader(limit=64 * _CHUNK)
        reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(answers, "rb"))
        writing, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(commands, "wb"))
        writer = asyncio.StreamWriter(writing, protocol, None, loop)
        said: list[str] = []
        listening = asyncio.create_task(_listen(reader, waiting, said))
        try:
            async with asyncio.timeout(LIMIT_S):
                target = (await _call(writer, waiting, "Target.createTarget", {"url": "about:blank"}))["targetId"]
                attached = await _call(writer, waiting, "Target.attachToTarget", {"targetId": target, "flatten": True})
                page = Page(writer, attached["sessionId"], waiting)
                page.messages = said
                for domain in ("Page", "Runtime", "Log"):
                    await page.call(f"{domain}.enable")
            yield page
        finally:
            listening.cancel()
            process.kill()
            await process.wait()
            writing.close()
            reading.close()


async def _started(path: str, arguments: Sequence[str], commands: int, answers: int) -> asyncio.subprocess.Process:
    # Chromium reads commands from descriptor 3 and writes answers to descriptor 4.
    shell = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
    return await asyncio.create_subprocess_exec(
        *("bash", "-c", shell, path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--remote-debugging-pipe", "--no-first-run", "--disable-background-networking", *arguments),
        pass_fds=(commands, answers),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )


_numbers = count(1)


async def _call(
    writer: asyncio.StreamWriter,
    answers: "dict[int, asyncio.Future[Any]]",
    method: str,
    parameters: dict[str, Any],
    session: str | None = None,
) -> Any:
    number = next(_numbers)
    answers[number] = asyncio.get_running_loop().create_future()
    command = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
    writer.write(json.dumps(command).encode() + b"\0")
    return await asyncio.wait_for(answers[number], LIMIT_S)


async def _listen(reader: asyncio.StreamReader, answers: "dict[int, asyncio.Future[Any]]", said: list[str]) -> None:
    while True:
        message = json.loads((await reader.readuntil(b"\0"))[:-1])
        if (answer := answers.pop(message.get("id", 0), None)) is not None:
            if "error" in message:
                answer.set_exception(RuntimeError(message["error"]["message"]))
            else:
                answer.set_result(message["result"])
        elif message.get("method") == "Log.entryAdded":
            said.append(message["params"]["entry"]["text"])
