"""The list of the image's packages: ``make sbom``."""

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs

from tests.docs.test_locks import packages

ROOT = Path(__file__).parents[2]
_TEXT = {"type": "string", "minLength": 1}


def _exactly(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


# The parts of CycloneDX 1.5 that the list uses.
_HASH = _exactly(alg={"const": "SHA-256"}, content={"type": "string", "pattern": "^[0-9a-f]{64}$"})
_REFERENCE = _exactly(
    type={"const": "distribution"},
    url={"type": "string", "pattern": "^https://"},
    hashes={"type": "array", "minItems": 1, "items": _HASH},
)
_COMPONENT = _exactly(
    **{"type": {"const": "library"}, "bom-ref": _TEXT, "name": _TEXT, "version": _TEXT},
    purl={"type": "string", "pattern": "^pkg:pypi/"},
    scope={"enum": ["required", "optional"]},
    externalReferences={"type": "array", "items": _REFERENCE},
)
_APPLICATION = _exactly(
    **{"type": {"const": "application"}, "bom-ref": _TEXT, "name": _TEXT, "version": _TEXT, "description": _TEXT},
    licenses={"type": "array", "items": _exactly(license=_exactly(id={"const": "MIT"}))},
)
_BILL = _exactly(
    bomFormat={"const": "CycloneDX"},
    specVersion={"const": "1.5"},
    version={"const": 1},
    metadata=_exactly(component=_APPLICATION),
    components={"type": "array", "items": _COMPONENT, "uniqueItems": True},
)


def test_list_has_every_package_of_the_image() -> None:
    """What `make sbom` prints is CycloneDX, and lists what the Dockerfile installs, with its hashes."""
    done = subprocess.run(["make", "sbom"], cwd=ROOT, capture_output=True, text=True, check=True)
    bill = json.loads(done.stdout)
    assert [error.message for error in jsonschema_rs.iter_errors(_BILL, bill)] == []
    assert {component["name"]: component["version"] for component in bill["components"]} == packages("requirements.txt")
    hashes = [found for component in bill["components"] for found in component["externalReferences"][0]["hashes"]]
    assert len(hashes) == (ROOT / "requirements.txt").read_text(encoding="utf-8").count("--hash=sha256:")
