"""A round trip of several statements that takes one system call to send.

It drives the driver's own generators, which make, send and read statements. The driver's own methods would send each statement
when it is executed, and would wait for the connection several times for each of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.abc import PQGen
from psycopg.generators import send
from psycopg.rows import TupleRow
from psycopg.sql import Composed
from typing_extensions import override

Statement = tuple[str | Composed, Mapping[str, Any] | None]


class _WholePipeline(psycopg.AsyncPipeline):
    """A pipeline that sends nothing before its end.

    The driver's own pipeline sends each statement when it is executed. Every packet wakes the server process, which costs
    both sides more than the statement itself if it is a short one.
    """

    @override
    def _communicate_gen(self) -> PQGen[None]:
        return
        yield

    @override
    def _exit_gen(self) -> PQGen[None]:
        """Send everything with the Sync that ends it, and read all results."""
        self._enqueue_sync()
        while self.command_queue:
            self.command_queue.popleft()()
        yield from send(self.pgconn)
        yield from self._fetch_gen(flush=False)


async def round_trip(
    connection: psycopg.AsyncConnection[TupleRow], statements: Sequence[Statement]
) -> list[psycopg.AsyncCursor[TupleRow]]:
    """Run statements in one round trip, and return a cursor with the result of each.

    After an error the driver's list of prepared statements is wrong (``Session.pipeline_failed``).

    Raises:
        psycopg.Error: that of the first statement that failed; those after it were skipped.
    """
    whole = connection._pipeline = _WholePipeline(connection)  # noqa: SLF001 - the driver has no argument for it
    failure: BaseException | None = None
    try:
        _finish(whole._enter_gen())  # noqa: SLF001 - see the module's docstring
        cursors = []
        for statement, parameters in statements:
            cursor = connection.cursor()
            _finish(cursor._execute_gen(statement, parameters))  # noqa: SLF001 - as above
            cursors.append(cursor)
        await connection.wait(whole._exit_gen())  # noqa: SLF001 - as above
    except BaseException as error:
        failure = error
        raise
    finally:
        whole._exit(failure)  # noqa: SLF001 - as above
        connection._pipeline = None  # noqa: SLF001 - as above
    return cursors


def _finish(steps: PQGen[None]) -> None:
    """Run a generator that waits for nothing."""
    for _ in steps:
        raise RuntimeError("the driver waits for the connection before a round trip is sent")


async def rows_of(cursor: psycopg.AsyncCursor[TupleRow]) -> list[TupleRow]:
    """Return the rows of a result; none if the statement has no result. ``description`` would describe every column."""
    result = cursor.pgresult
    return await cursor.fetchall() if result is not None and result.status == psycopg.pq.ExecStatus.TUPLES_OK else []
