"""The response that carries an answer has the headers that Starlette would make of them."""

from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from app.api.responses import AnswerResponse
from app.products.idempotency import Answer


@given(
    code=st.sampled_from([200, 201, 202, 204, 404, 409, 412]),
    body=st.sampled_from([b"", b"{}", b"x" * 1_000]),
    tag=st.sampled_from([None, '"1"', "9"]),
    location=st.sampled_from([None, "/products/mug-blue", "/products/a%20b"]),
)
def test_an_answer_has_the_headers_of_a_response(code: int, body: bytes, tag: str | None, location: str | None) -> None:
    """Names, values and order are the same, whatever the answer has."""
    refused = code >= 400
    headers = {"Cache-Control": "no-cache" if tag and not refused else "no-store"}
    headers |= {"ETag": tag} if tag else {}
    headers |= {"Location": location} if location else {}
    media_type = "application/problem+json" if refused else "application/json" if body else None
    usual, made = Response(body, code, headers, media_type), AnswerResponse(Answer(code, body, tag, location))
    assert (made.status_code, made.body, made.raw_headers) == (usual.status_code, usual.body, usual.raw_headers)
    made.headers["Idempotent-Replayed"] = "true"
    assert made.raw_headers[-1] == (b"idempotent-replayed", b"true")
