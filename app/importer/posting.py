"""One POST over HTTP, repeated until its answer is not worth another try.

| answer | what is done |
|---|---|
| no connection, no answer in time, 408, 425, 429, 5xx but 501 and 505 | tried again, after `Retry-After` if given |
| what the caller names as passing besides | as above |
| everything else | the caller's |
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx

from app.importer.errors import BadInput, GivenUp, ServiceStopped
from app.importer.retry import RetryPolicy, Stopping, parse_retry_after

_CONNECT_TIMEOUT_S = 5.0
_REASON_CHARS = 500
_PORT_MAX = 65_535
_IN_PROGRESS = "/request-in-progress"
_RETRIED_STATUSES = frozenset({408, 425, 429})
_FINAL_5XX = frozenset({501, 505})


@dataclass(frozen=True, slots=True)
class _Failure:
    """A try that may be repeated."""

    what: str
    retry_after_ms: int | None = None


def never(_: httpx.Response) -> bool:
    """No other answer is passing."""
    return False


class Poster:
    """Posts JSON to the service at `url`. Use as many at once as `connections`; close it at the end.

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
        also_passing: Callable[[httpx.Response], bool] = never,
    ) -> None:
        base = _service_url(url)
        self.shown_url = str(base.copy_with(username=None, password=None)).rstrip("/")
        self.retries = 0
        """How often any request was tried again so far."""
        self._timeout_s = timeout_s
        self._retry = retry
        self._stopping = stopping
        self._notify = notify
        self._also_passing = also_passing
        tls = httpx.create_ssl_context()
        # One client for each connection: a pool looks at all of its connections for every request, and asks the system
        # about each idle one, which at a few dozen costs more than the request itself.
        self._clients = [
            httpx.AsyncClient(
                base_url=base,
                verify=tls,
                timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S)),
                limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
                headers={"Content-Type": "application/json", "Accept": "application/json"},
                # A proxy from the environment is for the world outside; it cannot reach this machine's own loopback.
                trust_env=base.host not in {"localhost", "127.0.0.1", "::1"},
            )
            for _ in range(connections)
        ]
        self._free = list(self._clients)

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            await client.aclose()

    async def post(self, path: str, body: bytes, *, what: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """The first answer that is not worth another try; `what` names the request in messages.

        Errors: `ServiceStopped` when no try is left; `GivenUp` when the program is stopping. After either the service
        may or may not have done it.
        """
        attempt = 0
        while True:
            attempt += 1
            answer = await self._try_once(path, body, headers)
            if isinstance(answer, httpx.Response):
                return answer
            if self._stopping.requested:
                raise GivenUp(answer.what)
            if attempt > self._retry.retries:
                tries = "1 try" if attempt == 1 else f"{attempt} tries"
                raise ServiceStopped(f"{self.shown_url} did not take {what} in {tries}. The last: {answer.what}")
            wait_ms = self._retry.wait_ms(attempt, answer.retry_after_ms)
            self._notify(
                f"{what[:1].upper()}{what[1:]}: {answer.what}. Trying again in {wait_ms / 1000:.1f} s "
                f"({attempt} of {self._retry.retries})"
            )
            if not await self._stopping.wait_ms(wait_ms):
                raise GivenUp(answer.what)
            self.retries += 1

    async def _try_once(self, path: str, body: bytes, headers: Mapping[str, str] | None) -> httpx.Response | _Failure:
        client = self._free.pop()
        try:
            # httpx limits each read, not the whole answer: a byte now and then would hold it for ever.
            async with asyncio.timeout(self._timeout_s):
                response = await client.post(path, content=body, headers=headers)
        except (TimeoutError, httpx.TimeoutException):
            return _Failure(f"no answer within {self._timeout_s:g} s")
        except (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError) as error:
            return _Failure(f"no answer ({str(error) or type(error).__name__})")
        except httpx.HTTPError as error:
            raise ServiceStopped(f"Cannot talk to {self.shown_url}: {str(error) or type(error).__name__}") from error
        finally:
            self._free.append(client)
        status = response.status_code
        passing = status in _RETRIED_STATUSES or (response.is_server_error and status not in _FINAL_5XX)
        if passing or self._also_passing(response):
            return _Failure(problem_text(response), parse_retry_after(response.headers.get("Retry-After")))
        return response

    def stopped_by(self, response: httpx.Response, what: str) -> ServiceStopped:
        """The error for an answer that every other request would get too."""
        if response.is_redirect:
            return ServiceStopped(
                f"{self.shown_url} redirects to {response.headers.get('Location', 'another place')}. Give that --url."
            )
        return ServiceStopped(
            f"{self.shown_url} answers {problem_text(response)}, and would to every request (here {what}). "
            "Is this the address of a Larder, without a path behind it?"
        )


def _service_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BadInput(f"--url {url!r} is not a URL: {error}") from error
    port_is_legal = parsed.port is None or 0 < parsed.port <= _PORT_MAX
    if parsed.scheme not in {"http", "https"} or not parsed.host or not port_is_legal:
        raise BadInput(f"--url {url!r} must look like http://127.0.0.1:8000")
    return parsed.copy_with(query=None, fragment=None)


def in_progress(response: httpx.Response) -> bool:
    """Whether an earlier try of this very request, by its Idempotency-Key, is still under way."""
    if response.status_code != httpx.codes.CONFLICT:
        return False
    try:
        problem = response.json()
    except ValueError:
        return False
    return isinstance(problem, dict) and str(problem.get("type", "")).rstrip("/").endswith(_IN_PROGRESS)


def problem_text(response: httpx.Response) -> str:
    """Status and problem details on one line."""
    status = f"{response.status_code} {response.reason_phrase}".strip()
    try:
        problem = response.json()
    except ValueError:
        return status
    reason = problem_reason(problem)
    return f"{status}: {reason}" if reason else status


def problem_reason(problem: object) -> str:
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
