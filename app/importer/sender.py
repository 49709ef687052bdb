"""One batch over HTTP: an outcome per row, whatever happens on the way.

| answer | what is done |
|---|---|
| 200 with a result per item | the outcomes |
| a passing failure, as `app.importer.posting` has it | tried again |
| 413 | sent again in two halves; a single row is refused |
| 400, 422 | every row of the batch is refused, with the problem as its reason |
| everything else | the import stops: the next batch would fare no better |
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args
from uuid import uuid4

import httpx

from app.importer.errors import ServiceStopped
from app.importer.posting import Poster, in_progress, problem_reason, problem_text
from app.importer.retry import RetryPolicy, Stopping
from app.importer.rows import Row

Outcome = Literal["created", "updated", "unchanged", "refused"]
OUTCOMES: Final = get_args(Outcome)

_BATCH_REFUSED_STATUSES = frozenset({400, 422})


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one row; `reason` only when refused."""

    outcome: Outcome
    reason: str = ""


class BatchSender:
    """Sends batches to the service at `url`. Use as many at once as `connections`; close it at the end.

    Errors: `BadInput` for a URL that is none.
    """

    def __init__(
        self,
        url: str,
        *,
        connections: int,
        timeout_s: float,
        retry: RetryPolicy,
        stopping: Stopping,
        notify: Callable[[str], None],
    ) -> None:
        self._notify = notify
        self._poster = Poster(
            url,
            connections=connections,
            timeout_s=timeout_s,
            retry=retry,
            stopping=stopping,
            notify=notify,
            also_passing=in_progress,
        )

    @property
    def shown_url(self) -> str:
        """The service's address, without a password."""
        return self._poster.shown_url

    async def close(self) -> None:
        """Close the connections."""
        await self._poster.close()

    async def send(self, rows: Sequence[Row]) -> list[Result]:
        """Send the rows as one batch; a result for each, in their order.

        Errors: `ServiceStopped` when no further try would help or none is left; `GivenUp` when the import is
        stopping. After either, the service may or may not have stored the batch; sending it again is safe.
        """
        body = b'{"items":[' + b",".join(row.body for row in rows) + b"]}"
        # However often it has to be sent, it is done once: a second time would set stocks back over sales between the two.
        key = {"Idempotency-Key": f"import-{uuid4().hex}"}
        response = await self._poster.post("products/batch", body, what=f"lines {_lines(rows)}", headers=key)
        if response.status_code == httpx.codes.OK:
            return self._results(response, len(rows))
        reason = problem_text(response)
        if response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            if len(rows) == 1:
                return [Result("refused", reason)]
            half = len(rows) // 2
            return [*await self.send(rows[:half]), *await self.send(rows[half:])]
        if response.status_code in _BATCH_REFUSED_STATUSES:
            self._notify(f"The service refused the whole batch of lines {_lines(rows)}: {reason}")
            return [Result("refused", f"the whole batch was refused: {reason}")] * len(rows)
        raise self._poster.stopped_by(response, f"lines {_lines(rows)}")

    def _results(self, response: httpx.Response, count: int) -> list[Result]:
        found: dict[int, Result] = {}
        try:
            for entry in response.json()["results"]:
                index, outcome = entry["index"], entry["outcome"]
                if type(index) is not int or index in found or not 0 <= index < count or outcome not in OUTCOMES:
                    raise ValueError(entry)  # noqa: TRY301  # one message for all that is not a batch answer
                reason = problem_reason(entry.get("problem")) if outcome == "refused" else ""
                found[index] = Result(cast("Outcome", outcome), reason)
            return [found[index] for index in range(count)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServiceStopped(
                f"{self.shown_url} answered 200, but not with one result for each of the {count} items. "
                "Something other than a Larder, or one of another version, answers there."
            ) from error


def _lines(rows: Sequence[Row]) -> str:
    return f"{rows[0].line}-{rows[-1].line}"
