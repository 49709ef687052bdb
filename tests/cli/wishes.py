"""Arguments as the command line parses them."""

import argparse

from app.cli import audit, purge


def wish(*words: str) -> argparse.Namespace:
    """The parsed arguments of a command."""
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    for command in (audit, purge):
        command.add_parser(subparsers)
    return parser.parse_args(words)
