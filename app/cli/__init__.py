"""The `larder` command: one module for each of its commands.

A command is a module with two functions, like `app.cli.migrate`: `add_parser(subparsers)` declares its arguments,
`async run(arguments)` does it and returns the exit status. It is named in `COMMANDS`; nothing else needs to know it.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from importlib import import_module
from typing import Any, Protocol, cast

from app.cli.errors import CommandFailed

# By module name, so that `larder import` does not load the service, nor `larder serve` the importer.
COMMANDS = {
    "serve": "app.cli.serve",
    "worker": "app.cli.worker",
    "dev": "app.cli.dev",
    "migrate": "app.cli.migrate",
    "namespace": "app.cli.namespace",
    "audit": "app.cli.audit",
    "purge": "app.cli.purge",
    "import": "app.cli.import_",
}

INTERRUPTED = 130


class Command(Protocol):
    """What a command's module offers."""

    add_parser: Callable[["argparse._SubParsersAction[argparse.ArgumentParser]"], None]
    run: Callable[[argparse.Namespace], Coroutine[Any, Any, int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; the exit status.

    Failures that a person can do something about end in one sentence on stderr and their status, 1 as a rule; only a fault of
    the program shows a traceback.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    commands = {name: _load(name) for name in (given[:1] if given[:1] and given[0] in COMMANDS else COMMANDS)}
    parsed = _parser(commands).parse_args(given)
    try:
        return _run(commands[parsed.command].run(parsed))
    except CommandFailed as error:
        print(f"larder {parsed.command}: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return INTERRUPTED


def _load(name: str) -> Command:
    return cast("Command", import_module(COMMANDS[name]))


def _parser(commands: dict[str, Command]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="larder",
        description="Larder: products and stock over HTTP, with a cache that never answers with the past.",
        epilog="Settings come from LARDER_* variables; docs/SETTINGS.md lists them. `larder COMMAND --help` tells more.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in commands.values():
        command.add_parser(subparsers)
    return parser


def _run(coroutine: Coroutine[Any, Any, int]) -> int:
    try:
        from uvloop import new_event_loop  # noqa: PLC0415 - absent on systems that it is not made for
    except ImportError:
        return asyncio.run(coroutine)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(coroutine)
