"""The key of a command that is a client of the HTTP API."""

import argparse
import re
from pathlib import Path


def key_in(path: str) -> str:
    """Return the key in a file. Raises ``ArgumentTypeError`` if there is none."""
    # A key on the command line could be read in the list of processes.
    try:
        key = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {error}") from error
    if not re.fullmatch(r"\S+", key):
        raise argparse.ArgumentTypeError(f"{path} must hold one key and nothing else")
    return key
