"""The description of the API is a valid document: for a reader that others wrote, and where such readers look away."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from app.api.application import build
from app.api.metrics import RequestStats
from tests.openapi.tools import needed

KEYWORDS = {
    "$ref", "additionalProperties", "allOf", "anyOf", "const", "default", "description", "enum", "example", "examples",
    "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maxLength", "maximum", "minItems", "minLength",
    "minimum", "not", "oneOf", "pattern", "properties", "required", "title", "type", "uniqueItems",
}  # fmt: skip
"""The keywords of JSON Schema that are used. Any other may be a misspelt one, which says nothing to anybody."""
METHODS = {"delete", "get", "head", "patch", "post", "put"}


def _document(**options: Any) -> dict[str, Any]:
    return build("1.2.3", RequestStats(), **options).openapi()


DOCUMENT = _document()
OPERATIONS = [
    (path, method, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if method in METHODS
]


def _nodes(value: Any, place: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the document, with its place."""
    if isinstance(value, dict):
        yield place, value
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _nodes(inner, f"{place}/{key}")


def _schemas(value: dict[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A schema and those within it."""
    yield place, value
    inner = {key: value[key] for key in ("items", "not", "additionalProperties") if isinstance(value.get(key), dict)}
    inner |= {f"properties/{name}": schema for name, schema in value.get("properties", {}).items()}
    for key in ("allOf", "anyOf", "oneOf"):
        inner |= {f"{key}/{number}": schema for number, schema in enumerate(value.get(key, ()))}
    for name, schema in inner.items():
        yield from _schemas(schema, f"{place}/{name}")


def _all_schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        yield from _schemas(schema, name)
    for place, node in _nodes(DOCUMENT["paths"]):
        if isinstance(node.get("schema"), dict):
            yield from _schemas(node["schema"], place)


def _examples() -> Iterator[tuple[str, dict[str, Any], object]]:
    """Every example with its schema."""
    for place, node in _nodes(DOCUMENT["paths"]):
        if "schema" in node and "example" in node:
            yield place, node["schema"], node["example"]
        for name, example in node.get("examples", {}).items() if "schema" in node else ():
            yield f"{place}/{name}", node["schema"], example["value"]


@pytest.mark.parametrize("keys_optional", [False, True])
def test_it_is_openapi(*, keys_optional: bool) -> None:
    """The validator of the OpenAPI community finds nothing."""
    openapi_spec_validator = needed("openapi_spec_validator")
    openapi_spec_validator.validate(_document(open_to_all=keys_optional))


def test_every_keyword_says_something() -> None:
    """The validator passes over words that it does not know, such as ``ge`` in place of ``minimum``."""
    unknown = {f"{place}: {word}" for place, schema in _all_schemas() for word in schema.keys() - KEYWORDS}
    assert unknown == set()
    assert len(list(_all_schemas())) > 200


@pytest.mark.parametrize(("schema", "example"), [pytest.param(*rest, id=place) for place, *rest in _examples()])
def test_an_example_is_one(schema: dict[str, Any], example: object) -> None:
    """What a page offers to send, and what it shows as an answer, is what the schema allows."""
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "components": DOCUMENT["components"]}
    jsonschema_rs.validator_for(whole, validate_formats=True).validate(example)


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=lambda value: str(value)[:40])
def test_what_readers_expect_of_an_operation(path: str, method: str, operation: dict[str, Any]) -> None:
    """A name, a heading that is declared, who may call it, what its path holds, and how it refuses."""
    assert re.fullmatch("[a-z][A-Za-z]+", operation["operationId"])
    assert operation["summary"]
    assert set(operation["tags"]) <= {tag["name"] for tag in DOCUMENT["tags"]}
    assert "security" in operation
    assert any(status.startswith("4") for status in operation["responses"])
    assert any(status.startswith(("2", "3")) for status in operation["responses"])
    named = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "path"}
    assert named == set(re.findall(r"\{(\w+)\}", path))
    assert method != "get" or "requestBody" not in operation


def test_what_readers_expect_of_the_document() -> None:
    """Names are unique, every tag is used, and server and licence are told."""
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(names) == len(set(names))
    assert {tag["name"] for tag in DOCUMENT["tags"]} == {tag for _, _, operation in OPERATIONS for tag in operation["tags"]}
    assert DOCUMENT["servers"]
    assert DOCUMENT["info"]["license"]


def test_times_are_times() -> None:
    """A generated client has them as times and not as texts."""
    schemas = DOCUMENT["components"]["schemas"]
    found = [
        (name, field)
        for name, schema in schemas.items()
        for field, described in schema.get("properties", {}).items()
        if field.endswith("_at") and described.get("format") != "date-time" and described.get("type") == "string"
    ]
    assert found == []
    assert schemas["Product"]["properties"]["updated_at"]["format"] == "date-time"


def test_no_field_tells_a_default() -> None:
    """A made client would send it, or demand it: of a body, what was left out is then not left out any more."""
    schemas = DOCUMENT["components"]["schemas"].values()
    assert [name for schema in schemas for name, field in schema.get("properties", {}).items() if "default" in field] == []
