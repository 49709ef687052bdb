"""A round trip of several statements on a connection, which takes one system call to send.

It uses the driver's layer above libpq (``psycopg.pq``). The driver's cursors would make an object for each statement, look up
its text several times, send it when it is executed, and wait for the connection more than once.

A statement is prepared when it is first used on a connection, because the same few are used again and again. Behind a pooler
that shares sessions among clients nothing is prepared; ``prepare_threshold`` is ``None`` there, as the driver has it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, LiteralString

import psycopg
from psycopg.abc import Buffer, PQGen, Transformer
from psycopg.adapt import PyFormat
from psycopg.errors import error_from_result
from psycopg.generators import fetch_many, send
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow
from psycopg.sql import Composed

from .connection import Connection

Parameters = Mapping[str, Any]
StatementText = LiteralString | Composed
Statement = tuple[StatementText, Parameters | None]
MOST_PREPARED = 200
"""Most statements that a connection prepares. Further ones are sent with their text each time."""
_PLACEHOLDER = re.compile(r"%(?:\((\w+)\)s|%)")
_FAILED = (ExecStatus.FATAL_ERROR, ExecStatus.PIPELINE_ABORTED)


class UnwritableParameter(psycopg.ProgrammingError):
    """A parameter cannot be written; nothing was sent."""


@dataclass(slots=True)
class Result:
    """The result of one statement."""

    rows: list[TupleRow]
    tag: str
    """What PostgreSQL says that it did, e.g. ``COMMIT``."""


@dataclass(slots=True)
class _Command:
    """A statement with its parameters as they are sent."""

    query: bytes
    values: Sequence[Buffer | None] | None
    types: tuple[int, ...]
    formats: Sequence[int] | None
    prepares: bool = False
    """Whether it is prepared in this round trip."""


async def round_trip(connection: Connection, statements: Sequence[Statement]) -> list[Result]:
    """Run statements in one round trip, and return the result of each.

    Raises:
        UnwritableParameter: nothing was sent.
        psycopg.Error: that of the first statement that failed; those after it were skipped.
    """
    transformer = connection.transformer
    try:
        commands = [_command(connection, transformer, text, parameters) for text, parameters in statements]
    except (psycopg.Error, ValueError) as error:
        raise UnwritableParameter(str(error)) from error
    pgconn = connection.pgconn
    pgconn.enter_pipeline_mode()
    try:
        for command in commands:
            _send(connection, command)
        pgconn.pipeline_sync()
        if pgconn.flush():  # the server does not take all of it at once
            await connection.wait(send(pgconn))
        found = await connection.answer(_results(connection, commands))
    finally:
        connection.leave_pipeline()
    for result in found:
        if result.status in _FAILED:
            raise error_from_result(result)
    try:
        return [_result(transformer, result) for result in found]
    finally:
        transformer.set_pgresult(None)  # it is kept, and a result may be large


def _command(connection: Connection, transformer: Transformer, text: StatementText, parameters: Parameters | None) -> _Command:
    written = text if isinstance(text, str) else text.as_string(connection)
    if parameters is None:
        return _Command(written.encode(), None, (), None)
    query, names = _parsed(written)
    values = transformer.dump_sequence([parameters[name] for name in names], [PyFormat.AUTO] * len(names))
    return _Command(query, values, transformer.types or (), transformer.formats)


def _send(connection: Connection, command: _Command) -> None:
    """Put a statement into the connection's buffer."""
    pgconn, prepared = connection.pgconn, connection.prepared
    name = prepared.get((command.query, command.types))
    if name is None and connection.prepare_threshold is not None and len(prepared) < MOST_PREPARED:
        name = f"larder_{len(prepared)}".encode()
        prepared[command.query, command.types] = name  # the same statement may come again in this round trip
        pgconn.send_prepare(name, command.query, command.types)
        command.prepares = True
    if name is None:
        pgconn.send_query_params(command.query, command.values, command.types, command.formats)
    else:
        pgconn.send_query_prepared(name, command.values, command.formats)


@lru_cache(maxsize=1_000)
def _parsed(text: str) -> tuple[bytes, tuple[str, ...]]:
    """Return a statement with the server's placeholders, and the names of its parameters in their order."""
    names: list[str] = []

    def placeholder(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return "%"
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return _PLACEHOLDER.sub(placeholder, text).encode(), tuple(names)


def _results(connection: Connection, commands: Sequence[_Command]) -> PQGen[list[PGresult]]:
    """Read all results. A statement whose Prepare failed is removed from ``prepared``."""
    pgconn = connection.pgconn
    found: list[PGresult] = []
    try:
        for command in commands:
            if command.prepares:
                [result] = yield from fetch_many(pgconn)
                if result.status in _FAILED:
                    del connection.prepared[command.query, command.types]
                    found.append(result)
            [result] = yield from fetch_many(pgconn)
            found.append(result)
        yield from fetch_many(pgconn)  # the result of the Sync
    except psycopg.OperationalError:
        # The server may have said why it ends the connection.
        if not any(result.status == ExecStatus.FATAL_ERROR for result in found):
            raise
    return found


def _result(transformer: Transformer, result: PGresult) -> Result:
    tag = (result.command_status or b"").decode()
    if result.status != ExecStatus.TUPLES_OK:
        return Result([], tag)
    transformer.set_pgresult(result)
    return Result(transformer.load_rows(0, result.ntuples, tuple), tag)
