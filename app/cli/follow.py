"""``larder follow``: print every change of products and stock as a line of JSON, through the HTTP interface of a Larder."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from app.cli.errors import CommandFailed
from app.cli.key_option import key_in

RESYNC = 3
"""The exit status if the cursor cannot be used any more."""
_WAIT_S = 30
_TIMEOUT_S = _WAIT_S + 10
_LONGEST_PAUSE_S = 10.0
_TYPES = ("product", "movement", "reservation")
_DESCRIPTION = """\
Print every change of products, stock and reservations as a line of JSON, through the HTTP interface of a running Larder.
With --cursor-file it goes on where it ended; events that were printed just before it ended may be printed again.
Without it, or if there is no such file yet, it begins with the next change."""
_EPILOG = """\
exit status: 1 could not run; 3 the cursor cannot be used any more: read everything again; 130 interrupted. Example:
  larder follow --url http://127.0.0.1:8000 --types product --cursor-file products.cursor"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "follow",
        help="print every change as a line of JSON",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the Larder runs (default: %(default)s)")
    parser.add_argument(
        "--types",
        type=_types,
        default=",".join(_TYPES),
        metavar="TYPES",
        help="some of product, movement and reservation, separated by commas (default: %(default)s)",
    )
    parser.add_argument("--cursor-file", type=Path, metavar="PATH", help="where the place in the feed is kept")
    parser.add_argument("--key-file", type=key_in, dest="key", metavar="PATH", help="file with a key of scope changes:read")


async def run(arguments: argparse.Namespace) -> int:
    """Follow until interrupted; return the exit status.

    Raises:
        CommandFailed: the service refuses to be followed, or the cursor cannot be kept.
    """
    async with _client(arguments.url, arguments.key) as client:
        follower = _Follower(client, arguments.types, arguments.cursor_file)
        try:
            return await follower.follow()
        except BrokenPipeError:
            # Whoever read the lines has left. Nothing more can be written, not even at the end of the process.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


def _client(url: str, key: str | None) -> httpx.AsyncClient:
    """Return a client of the service.

    Raises:
        CommandFailed: the URL is not legal, or the environment names a proxy or certificates that cannot be used.
    """
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise CommandFailed(f"--url {url!r} is not a URL: {error}") from error
    if base.scheme not in {"http", "https"} or not base.host:
        raise CommandFailed(f"--url {url!r} must look like http://127.0.0.1:8000")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    # A proxy from the environment cannot reach this machine's own loopback address.
    trusted = base.host not in {"localhost", "127.0.0.1", "::1"}
    try:
        return httpx.AsyncClient(base_url=base, headers=headers, timeout=_TIMEOUT_S, trust_env=trusted)
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        raise CommandFailed(
            f"The proxy or the certificates that the environment names cannot be used ({error}). "
            "Correct ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE and SSL_CERT_DIR, or unset them."
        ) from error


class _Follower:
    def __init__(self, client: httpx.AsyncClient, types: str, cursor_file: Path | None) -> None:
        self._client = client
        self._types = types
        self._file = cursor_file
        self._hindrance = ""

    async def follow(self) -> int:
        cursor = self._kept()
        while True:
            query = {} if cursor is None else {"after": cursor, "types": self._types, "wait": str(_WAIT_S), "limit": "1000"}
            answer = await self._answer(query)
            if answer.status_code == httpx.codes.GONE:
                self._say(f"{_detail(answer)} Then {self._begin_again()} and follow again.")
                return RESYNC
            if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY and cursor is not None and self._file:
                raise CommandFailed(
                    f"{self._file} does not hold a cursor of {self._client.base_url}: {self._begin_again()} and follow again."
                )
            if answer.status_code != httpx.codes.OK:
                raise CommandFailed(f"{self._client.base_url} does not let itself be followed: {_detail(answer)}")
            try:
                document = answer.json()
                items, cursor = document["items"], str(document["next"])
            except (ValueError, KeyError, TypeError) as error:
                raise CommandFailed(f"{self._client.base_url} is not a Larder: its answer is no page of changes.") from error
            _print_lines(items)
            self._keep(cursor)

    async def _answer(self, query: dict[str, str]) -> httpx.Response:
        """Send a request until there is an answer that a repetition would not change."""
        pause_s = 0.5
        while True:
            try:
                answer = await self._client.get("/changes", params=query)
                if answer.status_code not in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE):
                    self._hindrance = ""
                    return answer
                hindrance = _detail(answer)
            except httpx.HTTPError as error:
                hindrance = f"{self._client.base_url} cannot be reached ({type(error).__name__})."
            if hindrance != self._hindrance:  # said once: an outage lasts many tries
                self._hindrance = hindrance
                self._say(f"{hindrance} It is tried again.")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _kept(self) -> str | None:
        if self._file is None:
            return None
        try:
            return self._file.read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise CommandFailed(f"the cursor in {self._file} cannot be read: {error}") from error

    def _keep(self, cursor: str) -> None:
        """Replace the file as a whole, so that a crash leaves the old cursor or the new one."""
        if self._file is None:
            return
        new = self._file.with_name(self._file.name + ".new")
        try:
            new.write_text(cursor + "\n", encoding="ascii")
            new.replace(self._file)
        except OSError as error:
            raise CommandFailed(
                f"the cursor cannot be kept in {self._file}: {error}. The last events will be printed again."
            ) from error

    def _begin_again(self) -> str:
        return f"remove {self._file}, read everything," if self._file else "read everything"

    def _say(self, text: str) -> None:
        print(f"larder follow: {text}", file=sys.stderr, flush=True)


def _print_lines(items: Sequence[dict[str, Any]]) -> None:
    for item in items:
        sys.stdout.write(json.dumps(item, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}."


def _types(text: str) -> str:
    names = text.split(",")
    if not set(names) <= set(_TYPES) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"must be some of {', '.join(_TYPES)}, separated by commas, not {text!r}")
    return text
