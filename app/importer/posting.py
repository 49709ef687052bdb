"""One POST over HTTP, repeated until another try would not help.

| answer | what is done |
|---|---|
| no connection, no answer in time, 408, 425, 429, 5xx except 501 and 505 | tried again, after ``Retry-After`` if given |
| 409 ``request-in-progress`` | as above: an earlier try of this request, by its Idempotency-Key, is still under way |
| everything else | returned to the caller |
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import httpx

from app.importer.errors import GivenUp, ImportStopped
from app.importer.retry import RetryPolicy, parse_retry_after
from app.importer.stopping import StopFlag

_CONNECT_TIMEOUT_S = 5.0
_REASON_CHARS = 500
_PORT_MAX = 65_535
_RETRIED_STATUSES = frozenset({408, 425, 429})
_ACCESS = frozenset({401, 403})
_FINAL_5XX = frozenset({501, 505})


@dataclass(frozen=True, slots=True)
class _FailedTry:
    """A try that may be repeated."""

    reason: str
    retry_after_ms: int | None = None


class Poster:
    """Posts JSON to the service at ``url``, at most ``connections`` requests at once. It is an async context manager.

    Raises:
        ImportStopped: the URL is not legal, or the environment names a proxy or certificates that cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        connections: int,
        timeout_s: float,
        retry: RetryPolicy,
        stop: StopFlag,
        notify: Callable[[str], None],
        key: str = "",
    ) -> None:
        base = _service_url(url)
        self.shown_url = str(base.copy_with(username=None, password=None)).rstrip("/")
        self.retries = 0
        """Number of retries of all requests so far."""
        self.notify = notify
        self.connections = connections
        self._free = asyncio.Semaphore(connections)
        self._timeout_s = timeout_s
        self._retry = retry
        self._stop = stop
        own = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            tls = httpx.create_ssl_context()
            # Each client has one connection, because a pool inspects all of its connections for every request. With a few dozen
            # that costs more than the request itself.
            self._clients = [
                httpx.AsyncClient(
                    base_url=base,
                    verify=tls,
                    timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S)),
                    limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
                    headers={"Content-Type": "application/json", "Accept": "application/json"} | own,
                    # A proxy from the environment cannot reach this machine's own loopback address.
                    trust_env=base.host not in {"localhost", "127.0.0.1", "::1"},
                )
                for _ in range(connections)
            ]
        except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
            raise ImportStopped(
                f"The proxy or the certificates that the environment names cannot be used ({error}). "
                "Correct ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE and SSL_CERT_DIR, or unset them."
            ) from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.aclose()

    async def post(self, path: str, body: bytes, *, what: str, key: str) -> httpx.Response:
        """Send the request, again if that may help, and return the answer. ``what`` is its name in messages.

        Every try has the same Idempotency-Key, so the service does it once. After an error it may or may not have been done.

        Raises:
            ImportStopped: no try is left, or another try would not help.
            GivenUp: the program is stopping.
        """
        async with self._free:
            if self._stop.is_set():
                raise GivenUp("not sent")
            attempt = 1
            while isinstance(answer := await self._try_once(path, body, key), _FailedTry):
                if self._stop.is_set():
                    raise GivenUp(answer.reason)
                if attempt > self._retry.retries:
                    tries = "1 try" if attempt == 1 else f"{attempt} tries"
                    raise ImportStopped(f"{self.shown_url} did not take {what} in {tries}. The last: {answer.reason}")
                wait_ms = self._retry.wait_ms(attempt, answer.retry_after_ms)
                self.notify(
                    f"{what[:1].upper()}{what[1:]}: {answer.reason}. Trying again in {wait_ms / 1000:.1f} s "
                    f"({attempt} of {self._retry.retries})"
                )
                if not await self._stop.wait_ms(wait_ms):
                    raise GivenUp(answer.reason)
                attempt += 1
                self.retries += 1
            return answer

    async def _try_once(self, path: str, body: bytes, key: str) -> httpx.Response | _FailedTry:
        client = self._clients.pop()
        try:
            # httpx limits each read, not the whole answer, which could be sent byte by byte for ever.
            async with asyncio.timeout(self._timeout_s):
                response = await client.post(path, content=body, headers={"Idempotency-Key": key})
        except (TimeoutError, httpx.TimeoutException):
            return _FailedTry(f"no answer within {self._timeout_s:g} s")
        except (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError) as error:
            return _FailedTry(f"no answer ({str(error) or type(error).__name__})")
        except httpx.HTTPError as error:
            raise ImportStopped(f"Cannot talk to {self.shown_url}: {str(error) or type(error).__name__}") from error
        finally:
            self._clients.append(client)
        if _is_temporary(response):
            return _FailedTry(problem_text(response), parse_retry_after(response.headers.get("Retry-After")))
        return response

    def stopped_by(self, response: httpx.Response, what: str) -> ImportStopped:
        """Return the error for an answer that every other request would get, too."""
        if response.is_redirect:
            return ImportStopped(
                f"{self.shown_url} redirects to {response.headers.get('Location', 'another place')}. Give that --url."
            )
        hint = (
            "--key-file names a file with a key that may do this."
            if response.status_code in _ACCESS
            else "Is this the address of a Larder, without a path behind it?"
        )
        problem = problem_text(response).removesuffix(".")
        return ImportStopped(
            f"{self.shown_url} answers {what} with {problem}. Other requests would get the same answer. {hint}"
        )


def _service_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ImportStopped(f"--url {url!r} is not a URL: {error}") from error
    port_is_legal = parsed.port is None or 0 < parsed.port <= _PORT_MAX
    if parsed.scheme not in {"http", "https"} or not parsed.host or not port_is_legal:
        raise ImportStopped(f"--url {url!r} must look like http://127.0.0.1:8000")
    return parsed.copy_with(query=None, fragment=None)


def _is_temporary(response: httpx.Response) -> bool:
    """Return whether another try may get a better answer."""
    status = response.status_code
    if status == httpx.codes.CONFLICT:
        problem = json_of(response)
        return isinstance(problem, dict) and str(problem.get("type")).rstrip("/").endswith("/request-in-progress")
    return status in _RETRIED_STATUSES or (response.is_server_error and status not in _FINAL_5XX)


def json_of(response: httpx.Response) -> Any:
    """Return the body as JSON, or ``None`` if it is not JSON."""
    try:
        return response.json()
    except ValueError:
        return None


def problem_text(response: httpx.Response) -> str:
    """Return status and problem details on one line."""
    status = f"{response.status_code} {response.reason_phrase}".strip()
    reason = problem_reason(json_of(response))
    return f"{status}: {reason}" if reason else status


def problem_reason(problem: object) -> str:
    """Return the text of an RFC 9457 problem, with the errors that a 422 lists. A member may be missing."""
    if isinstance(problem, str):
        return _one_line(problem)
    if not isinstance(problem, dict):
        return ""
    parts = [str(problem.get("detail") or problem.get("title") or problem.get("type") or "")]
    errors = problem.get("errors")
    singles = [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    parts += (f"{error.get('pointer', '')} {error.get('detail', '')}".strip() for error in singles)
    return _one_line("; ".join(part for part in parts if part))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_REASON_CHARS]
