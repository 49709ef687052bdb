"""The ``larder`` command: one module for each of its commands.

A command is a module with two functions, like ``app.cli.migrate``: ``add_parser(subparsers)`` declares its arguments,
``async run(arguments)`` carries it out and returns the exit status. ``COMMANDS`` lists them.
"""

import argparse
import sys
from collections.abc import Callable, Coroutine, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any, Protocol, cast

from app.cli.errors import CommandFailed
from app.server.errors import CannotServe
from app.server.process import run_in_loop

# The values are names, so that a command loads only its own module: `larder import` does not load the service.
COMMANDS = {
    "serve": "app.cli.serve",
    "dev": "app.cli.dev",
    "migrate": "app.cli.migrate",
    "doctor": "app.cli.doctor",
    "keys": "app.cli.keys",
    "namespace": "app.cli.namespace",
    "epoch": "app.cli.epoch",
    "buckets": "app.cli.buckets",
    "verify": "app.cli.verify",
    "purge": "app.cli.purge",
    "import": "app.cli.import_",
    "follow": "app.cli.follow",
}

CANNOT_SERVE = 1
INTERRUPTED = 130


class Command(Protocol):
    """A command's module."""

    add_parser: Callable[["argparse._SubParsersAction[argparse.ArgumentParser]"], None]
    run: Callable[[argparse.Namespace], Coroutine[Any, Any, int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name, and return the exit status.

    A failure that the user can correct is printed as one sentence on stderr. Only a bug of the program shows a traceback.
    """
    command, parsed = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        return run_in_loop(command.run(parsed))
    except (CommandFailed, CannotServe) as error:
        print(f"larder {parsed.command}: {error}", file=sys.stderr)
        return error.status if isinstance(error, CommandFailed) else CANNOT_SERVE
    except KeyboardInterrupt:
        return INTERRUPTED


def parse(arguments: Sequence[str]) -> tuple[Command, argparse.Namespace]:
    """Return the command that the arguments name, and its arguments. Only the named command is loaded."""
    parser = argparse.ArgumentParser(
        prog="larder",
        description="Larder: products and stock over HTTP, with a cache that never answers with the past.",
        epilog="Settings come from LARDER_* variables; docs/SETTINGS.md lists them. `larder COMMAND --help` shows more.",
    )
    parser.add_argument("--version", action="version", version=f"larder {version('larder')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    names = set(arguments[:1]) & COMMANDS.keys() or (() if arguments[:1] == ["--version"] else COMMANDS)
    commands = {name: cast("Command", import_module(COMMANDS[name])) for name in names}
    for command in commands.values():
        command.add_parser(subparsers)
    parsed = parser.parse_args(arguments)
    return commands[parsed.command], parsed
