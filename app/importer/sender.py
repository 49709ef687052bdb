"""Sends the rows of one batch over HTTP and returns a result for each.

| answer | what is done |
|---|---|
| 200 with a result per item | the results |
| 413 | sent again in two halves; a single row is refused |
| 400, 422 | every row of the batch is refused, with the problem as its reason |
| everything else that ``posting`` does not repeat | the import stops, because the next batch would fail in the same way |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args
from uuid import uuid4

import httpx

from app.importer.errors import ImportStopped
from app.importer.posting import Poster, json_of, problem_reason, problem_text
from app.importer.rows import Row

Outcome = Literal["created", "updated", "unchanged", "refused"]
OUTCOMES: Final = get_args(Outcome)

_BATCH_REFUSED_STATUSES = frozenset({400, 422})


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one row. ``reason`` is empty unless it was refused."""

    outcome: Outcome
    reason: str = ""


async def send_rows(poster: Poster, rows: Sequence[Row]) -> list[Result]:
    """Send the rows as one batch; return a result for each, in their order.

    After an error the service may or may not have stored the batch; sending it again is safe.

    Raises:
        ImportStopped: no further try would help, or none is left.
        GivenUp: the import is stopping.
    """
    body = b'{"items":[' + b",".join(row.body for row in rows) + b"]}"
    what = f"lines {rows[0].line}-{rows[-1].line}"
    # The key prevents a second import, which would overwrite sales made between the two.
    response = await poster.post("products/batch", body, what=what, key=f"import-{uuid4().hex}")
    if response.status_code == httpx.codes.OK:
        results = _results(response, len(rows))
        if results is None:
            raise ImportStopped(
                f"{poster.shown_url} answered 200, but not with one result for each of the {len(rows)} items. "
                "Something other than a Larder, or one of another version, answers there."
            )
        return results
    reason = problem_text(response)
    if response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
        if len(rows) == 1:
            return [Result("refused", reason)]
        half = len(rows) // 2
        return [*await send_rows(poster, rows[:half]), *await send_rows(poster, rows[half:])]
    if response.status_code in _BATCH_REFUSED_STATUSES:
        poster.notify(f"The service refused the whole batch of {what}: {reason}")
        return [Result("refused", f"the whole batch was refused: {reason}")] * len(rows)
    raise poster.stopped_by(response, what)


def _results(response: httpx.Response, count: int) -> list[Result] | None:
    """Return the results in the order of the rows, or ``None`` unless there is exactly one per row."""
    found: dict[int, Result] = {}
    try:
        for entry in json_of(response)["results"]:
            index, outcome = entry["index"], entry["outcome"]
            if type(index) is not int or index in found or outcome not in OUTCOMES:
                return None
            reason = problem_reason(entry.get("problem")) if outcome == "refused" else ""
            # Remove the batch index, which means nothing to the user.
            found[index] = Result(cast("Outcome", outcome), reason.replace(f"#/items/{index}/", ""))
    except (KeyError, TypeError, AttributeError):
        return None
    return [found[index] for index in range(count)] if found.keys() == set(range(count)) else None
