"""What people and tools read about the API: pages of problems, Swagger UI, the OpenAPI description."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api.problem_types import TYPES
from tests.api.test_schema import OPERATIONS

METHODS = {"get", "put", "post", "delete", "patch", "head"}


def _links(page: str) -> set[str]:
    """What a page makes a browser fetch or offers to follow."""
    return set(re.findall(r"""(?:href|src)\s*=\s*["']?([^"'\s>]+)""", page))


async def _operations(client: httpx.AsyncClient) -> list[tuple[str, str, dict[str, Any]]]:
    paths = (await client.get("/openapi.json")).json()["paths"]
    return [(path, method, item[method]) for path, item in paths.items() for method in item if method in METHODS]


async def test_every_problem_has_a_page(client: httpx.AsyncClient) -> None:
    """HTML for people: what happened and what to do; the index leads to all of them."""
    index = await client.get("/problems")
    for kind in TYPES.values():
        assert kind.path in _links(index.text)
        page = await client.get(kind.path)
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "What to do" in page.text
        assert f"Status {kind.status}" in page.text


@pytest.mark.parametrize("path", ["/docs", "/dashboard", "/problems", "/problems/overloaded"])
async def test_a_page_needs_nothing_from_elsewhere(client: httpx.AsyncClient, path: str) -> None:
    """Every script, style, image and link is served by this service."""
    page = await client.get(path)
    links = _links(page.text)
    assert links
    assert all(link.startswith("/") for link in links)
    assert [link for link in links if (await client.get(link)).status_code != 200] == []
    assert not re.search(r"https?://", page.text)


async def test_swagger_ui_comes_with_its_assets(client: httpx.AsyncClient) -> None:
    """The page loads the description and a Swagger UI that can read OpenAPI 3.1."""
    page = (await client.get("/docs")).text
    assert "'/openapi.json'" in page
    script = await client.get("/docs/assets/swagger-ui-bundle.js")
    assert script.headers["Content-Type"].startswith("text/javascript")
    assert "3.1" in script.text


async def test_every_operation_is_described_in_full(client: httpx.AsyncClient) -> None:
    """A stable name, a summary, an example of each body, and every error as a problem."""
    operations = await _operations(client)
    names = [operation["operationId"] for _, _, operation in operations]
    assert sorted(names) == OPERATIONS
    for _, method, operation in operations:
        assert operation["summary"]
        for status, response in operation["responses"].items():
            if int(status) >= 400 and method != "head":
                problem = response["content"]["application/problem+json"]
                assert problem["schema"] == {"$ref": "#/components/schemas/ProblemDocument"}
                for slug, example in problem["examples"].items():
                    assert (TYPES[slug].status, example["value"]["type"]) == (int(status), TYPES[slug].path)
        for media in operation.get("requestBody", {}).get("content", {}).values():
            assert media["example"]


async def test_the_description_is_openapi_3_1_and_whole(client: httpx.AsyncClient) -> None:
    """Every reference leads to a component, and every component is used."""
    answer = await client.get("/openapi.json")
    document = answer.json()
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["version"] == "1.2.3"
    schemas = document["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/(\w+)"', answer.text)) == set(schemas)


@pytest.mark.parametrize(
    "name",
    [
        "putProduct",
        "createProduct",
        "patchProduct",
        "putStock",
        "batchProducts",
        "adjustStock",
        "adjustStocks",
        "createReservation",
    ],
)
async def test_the_examples_work_when_they_are_tried(client: httpx.AsyncClient, mug: dict[str, object], name: str) -> None:
    """What Swagger UI offers to send is accepted by a demo catalogue as it is."""
    assert mug["id"] == "mug-blue"
    [(path, method, operation)] = [found for found in await _operations(client) if found[2]["operationId"] == name]
    parameter = next((p for p in operation["parameters"] if p["in"] == "path"), None) if "parameters" in operation else None
    url = path.format(product_id=parameter["example"]) if parameter else path
    for media_type, media in operation["requestBody"]["content"].items():
        request = client.build_request(method.upper(), url, json=media["example"], headers={"Content-Type": media_type})
        answer = await client.send(request)
        assert answer.is_success, answer.text
        assert "refused" not in answer.text


def test_the_docs_have_every_problem() -> None:
    """The table in docs/HTTP.md is the table of the code."""
    page = (Path(__file__).parents[2] / "docs" / "HTTP.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([a-z-]+)` \| (\d{3}) \|", page, re.MULTILINE)
    assert documented == [(kind.slug, str(kind.status)) for kind in TYPES.values()]
