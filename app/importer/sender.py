"""One batch over HTTP: an outcome per row, whatever happens on the way.

| answer | what is done |
|---|---|
| 200 with a result per item | the outcomes |
| no connection, no answer in time, 408, 425, 429, 5xx but 501 and 505 | tried again, after `Retry-After` if given |
| 413 | sent again in two halves; a single row is refused |
| 400, 422 | every row of the batch is refused, with the problem as its reason |
| everything else | the import stops: the next batch would fare no better |
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

import httpx

from app.importer.errors import BadInput, GivenUp, ServiceStopped
from app.importer.retry import RetryPolicy, Stopping, parse_retry_after
from app.importer.rows import Row

Outcome = Literal["created", "updated", "unchanged", "refused"]
OUTCOMES: Final = get_args(Outcome)

_CONNECT_TIMEOUT_S = 5.0
_REASON_CHARS = 500
_PORT_MAX = 65_535
_RETRIED_STATUSES = frozenset({408, 425, 429})
_FINAL_5XX = frozenset({501, 505})
_BATCH_REFUSED_STATUSES = frozenset({400, 422})


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one row; `reason` only when refused."""

    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Failure:
    """A try that may be repeated."""

    what: str
    retry_after_ms: int | None = None


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
        base = _service_url(url)
        self.shown_url = str(base.copy_with(username=None, password=None)).rstrip("/")
        self._timeout_s = timeout_s
        self._retry = retry
        self._stopping = stopping
        self._notify = notify
        self._client = httpx.AsyncClient(
            base_url=base,
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S)),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            headers={"Content-Type": "application/json", "Accept": "application/json"},
            # A proxy from the environment is for the world outside; it cannot reach this machine's own loopback.
            trust_env=base.host not in {"localhost", "127.0.0.1", "::1"},
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def send(self, rows: Sequence[Row]) -> list[Result]:
        """Send the rows as one batch; a result for each, in their order.

        Errors: `ServiceStopped` when no further try would help or none is left; `GivenUp` when the import is
        stopping. After either, the service may or may not have stored the batch; sending it again is safe.
        """
        response = await self._answer(rows)
        if response.status_code == httpx.codes.OK:
            return self._results(response, len(rows))
        reason = _problem_text(response)
        if response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            if len(rows) == 1:
                return [Result("refused", reason)]
            half = len(rows) // 2
            return [*await self.send(rows[:half]), *await self.send(rows[half:])]
        if response.status_code in _BATCH_REFUSED_STATUSES:
            self._notify(f"The service refused the whole batch of lines {_lines(rows)}: {reason}")
            return [Result("refused", f"the whole batch was refused: {reason}")] * len(rows)
        if response.is_redirect:
            raise ServiceStopped(
                f"{self.shown_url} redirects to {response.headers.get('Location', 'another place')}. Give that --url."
            )
        raise ServiceStopped(
            f"{self.shown_url} answers {reason}, and would to every batch (here lines {_lines(rows)}). "
            "Is this the address of a Larder, without a path behind it?"
        )

    async def _answer(self, rows: Sequence[Row]) -> httpx.Response:
        """The first answer that is not worth another try."""
        body = b'{"items":[' + b",".join(row.body for row in rows) + b"]}"
        attempt = 0
        while True:
            attempt += 1
            answer = await self._try_once(body)
            if isinstance(answer, httpx.Response):
                return answer
            if self._stopping.requested:
                raise GivenUp(answer.what)
            if attempt > self._retry.retries:
                tries = "1 try" if attempt == 1 else f"{attempt} tries"
                raise ServiceStopped(f"{self.shown_url} did not take lines {_lines(rows)} in {tries}. The last: {answer.what}")
            wait_ms = self._retry.wait_ms(attempt, answer.retry_after_ms)
            self._notify(
                f"Lines {_lines(rows)}: {answer.what}. Trying again in {wait_ms / 1000:.1f} s "
                f"({attempt} of {self._retry.retries})"
            )
            if not await self._stopping.wait_ms(wait_ms):
                raise GivenUp(answer.what)

    async def _try_once(self, body: bytes) -> httpx.Response | _Failure:
        try:
            # httpx limits each read, not the whole answer: a byte now and then would hold it for ever.
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.post("products/batch", content=body)
        except (TimeoutError, httpx.TimeoutException):
            return _Failure(f"no answer within {self._timeout_s:g} s")
        except (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError) as error:
            return _Failure(f"no answer ({str(error) or type(error).__name__})")
        except httpx.HTTPError as error:
            raise ServiceStopped(f"Cannot talk to {self.shown_url}: {str(error) or type(error).__name__}") from error
        status = response.status_code
        if status in _RETRIED_STATUSES or (response.is_server_error and status not in _FINAL_5XX):
            return _Failure(_problem_text(response), parse_retry_after(response.headers.get("Retry-After")))
        return response

    def _results(self, response: httpx.Response, count: int) -> list[Result]:
        found: dict[int, Result] = {}
        try:
            for entry in response.json()["results"]:
                index, outcome = entry["index"], entry["outcome"]
                if type(index) is not int or index in found or not 0 <= index < count or outcome not in OUTCOMES:
                    raise ValueError(entry)  # noqa: TRY301  # one message for all that is not a batch answer
                reason = _problem_reason(entry.get("problem")) if outcome == "refused" else ""
                found[index] = Result(cast("Outcome", outcome), reason)
            return [found[index] for index in range(count)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServiceStopped(
                f"{self.shown_url} answered 200, but not with one result for each of the {count} items. "
                "Something other than a Larder, or one of another version, answers there."
            ) from error


def _service_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BadInput(f"--url {url!r} is not a URL: {error}") from error
    port_is_legal = parsed.port is None or 0 < parsed.port <= _PORT_MAX
    if parsed.scheme not in {"http", "https"} or not parsed.host or not port_is_legal:
        raise BadInput(f"--url {url!r} must look like http://127.0.0.1:8000")
    return parsed.copy_with(query=None, fragment=None)


def _problem_text(response: httpx.Response) -> str:
    """Status and problem details on one line."""
    status = f"{response.status_code} {response.reason_phrase}".strip()
    try:
        problem = response.json()
    except ValueError:
        return status
    reason = _problem_reason(problem)
    return f"{status}: {reason}" if reason else status


def _problem_reason(problem: object) -> str:
    """What an RFC 9457 problem says, the single errors of a 422 included; made of whatever is there."""
    if isinstance(problem, str):
        return _one_line(problem)
    if not isinstance(problem, dict):
        return ""
    text = str(problem.get("detail") or problem.get("title") or problem.get("type") or "")
    errors = problem.get("errors")
    single = [
        f"{error.get('pointer', '')} {error.get('detail', '')}".strip()
        for error in (errors if isinstance(errors, list) else [])
        if isinstance(error, dict)
    ]
    return _one_line("; ".join(part for part in (text, *single) if part))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_REASON_CHARS]


def _lines(rows: Sequence[Row]) -> str:
    return f"{rows[0].line}-{rows[-1].line}"
