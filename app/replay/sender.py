"""One invoice over HTTP: accepted or refused, done once whatever happens on the way.

Every try of a request carries the same idempotency key, so a try whose answer was lost may be repeated.

| answer | what is done |
|---|---|
| 200 with a line for each one sent | accepted |
| a passing failure, as `app.importer.posting` has it, or 409 `request-in-progress` | tried again with the same key |
| 400, 404 that names the missing products, 409, 412, 413, 422 | refused: listed, and the replay goes on |
| everything else | the replay stops: the next invoice would fare no better |
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from app.importer.errors import ServiceStopped
from app.importer.posting import Poster, in_progress
from app.importer.retry import RetryPolicy, Stopping
from app.replay.adjustments import Adjustment

_PATH = "stock/adjustments"
_REFUSED_STATUSES = frozenset({400, 409, 412, 413, 422})
_SHOWN_CHARS = 500


@dataclass(frozen=True, slots=True)
class Accepted:
    """All lines are in the ledger. `replayed`: the service says that it had done so on an earlier try or run."""

    replayed: bool


@dataclass(frozen=True, slots=True)
class NotAccepted:
    """No line is. `problem` is the problem's JSON, or the text that came instead."""

    replayed: bool
    status: int
    problem: Any


class AdjustmentSender:
    """Sends invoices to the service at `url`. Use as many at once as `clients`; close it at the end.

    Errors: `BadInput` for a URL that is none.
    """

    def __init__(
        self,
        url: str,
        *,
        clients: int,
        timeout_s: float,
        retry: RetryPolicy,
        stopping: Stopping,
        notify: Callable[[str], None],
    ) -> None:
        self._poster = Poster(
            url,
            connections=clients,
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

    @property
    def retries(self) -> int:
        """How often requests were tried again so far."""
        return self._poster.retries

    async def close(self) -> None:
        """Close the connections."""
        await self._poster.close()

    async def send(self, adjustment: Adjustment, key: str) -> Accepted | NotAccepted:
        """Send it until there is an answer.

        Errors: `ServiceStopped` when no further try would help or none is left; `GivenUp` when the replay is stopping.
        After either it may be done or not; sending it again under the same key is safe.
        """
        headers = {"Idempotency-Key": key}
        response = await self._poster.post(_PATH, adjustment.body(), what=adjustment.name, headers=headers)
        replayed = response.headers.get("Idempotent-Replayed") == "true"
        if response.status_code == httpx.codes.OK:
            self._check(response, adjustment)
            return Accepted(replayed)
        problem = _json_of(response)
        missing = response.status_code == httpx.codes.NOT_FOUND and isinstance(problem, dict) and "missing" in problem
        if response.status_code in _REFUSED_STATUSES or missing:
            shown = problem if problem is not None else response.text[:_SHOWN_CHARS]
            return NotAccepted(replayed, response.status_code, shown)
        raise self._poster.stopped_by(response, adjustment.name)

    def _check(self, response: httpx.Response, adjustment: Adjustment) -> None:
        """Something else may answer 200 to anything: units that it did not book must not be counted as sold."""
        sent = [(line.product_id, -line.quantity) for line in adjustment.lines]
        try:
            booked = [(line["product_id"], line["delta"]) for line in response.json()["lines"]]
        except (ValueError, KeyError, TypeError):
            booked = None
        if booked != sent:
            raise ServiceStopped(
                f"{self.shown_url} answered 200 to {adjustment.name}, but not with the lines that were sent. "
                "Something other than a Larder, or one of another version, answers there."
            )


def _json_of(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
