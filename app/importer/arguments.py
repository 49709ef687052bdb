"""Kinds of arguments that several commands take."""

import argparse
from collections.abc import Callable, Collection
from typing import ClassVar


def whole_number_option(option: str, least: int, most: int) -> Callable[[str], int]:
    """The `type` of an option that is a whole number within bounds."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{option} is a whole number from {least} to {most}, not {text!r}")
        return int(text)

    return parse


class MapAction(argparse.Action):
    """Collects `--map FIELD=COLUMN` into a dictionary; a subclass says which `fields` may be named."""

    fields: ClassVar[Collection[str]]

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,  # noqa: ARG002  # part of the signature that argparse calls
    ) -> None:
        """Take one of them up."""
        field, _, column = str(values).partition("=")
        mapping = dict(getattr(namespace, self.dest))
        if field not in self.fields or not column:
            parser.error(f"--map {values}: write FIELD=COLUMN, FIELD one of {', '.join(self.fields)}")
        if field in mapping:
            parser.error(f"--map names {field} twice")
        mapping[field] = column
        setattr(namespace, self.dest, mapping)
