"""What every error answer has to be, and requests that no ordinary client would send."""

import json

import httpx

from app.api.problem_types import TYPES


def problem(answer: httpx.Response, slug: str) -> dict[str, object]:
    """Check that the answer is a whole problem of this type, and give its members."""
    assert answer.headers["Content-Type"] == "application/problem+json", answer.text
    document: dict[str, object] = answer.json()
    kind = TYPES[slug]
    assert document["type"] == f"/problems/{slug}", document
    assert (document["title"], document["status"], answer.status_code) == (kind.title, kind.status, kind.status)
    assert document["instance"] == answer.request.url.raw_path.decode().partition("?")[0]
    assert len(str(document["detail"])) > len("too short")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Request-Id"]
    assert ("Retry-After" in answer.headers) == (kind.retry_after_s is not None)
    return document


def places(document: dict[str, object]) -> list[str]:
    """Give the pointers and parameters that a 422 names, in order."""
    errors = document["errors"]
    assert isinstance(errors, list)
    assert all(set(error) in ({"pointer", "detail"}, {"parameter", "detail"}) for error in errors)
    return [error.get("pointer") or error["parameter"] for error in errors]


async def send(
    client: httpx.AsyncClient, method: str, url: str, body: object, headers: dict[str, str] | None = None
) -> httpx.Response:
    """Send a body of JSON in ASCII: any value can be written so, half characters and null too."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await client.request(method, url, content=content, headers={"Content-Type": "application/json"} | (headers or {}))
