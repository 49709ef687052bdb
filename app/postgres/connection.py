"""A connection to PostgreSQL, with what is kept for as long as it is open."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import psycopg
from psycopg.abc import Dumper, Transformer
from psycopg.adapt import Transformer as DriverTransformer
from psycopg.rows import TupleRow


class Connection(psycopg.AsyncConnection[TupleRow]):
    """A connection to PostgreSQL that knows which statements it has prepared, and how values are written and read."""

    @cached_property
    def prepared(self) -> dict[tuple[bytes, tuple[int, ...]], bytes]:
        """The names of the prepared statements, by text and types of the parameters."""
        return {}

    @cached_property
    def transformer(self) -> Transformer:
        """What writes parameters and reads results. It keeps every dumper and loader that it has looked up.

        It does not know the connection, whose parameters may change while it is kept: texts are UTF-8, and moments are in UTC.
        """
        return DriverTransformer(self.adapters)

    def write_with(self, dumpers: Mapping[type[Any], type[Dumper]]) -> None:
        """Write values of these types with these dumpers from now on."""
        for kind, dumper in dumpers.items():
            self.adapters.register_dumper(kind, dumper)
        self.__dict__.pop("transformer", None)
