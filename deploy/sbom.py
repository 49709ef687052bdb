# ruff: noqa: INP001, T201 - a script, not a package; its answer is what it prints
"""``python deploy/sbom.py``: what the image's Python packages are, as CycloneDX 1.5.

The list is made from requirements.txt, from which the image is built, and has the hashes that pip accepts. Python itself and
Debian's packages come with the base image, which has a list of its own.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_PACKAGE = re.compile(r"^([a-z0-9-]+)(?:\[[a-z,]*\])?==([^ ;\\]+)( ;)?", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def bill(requirements: str, project: dict[str, Any]) -> dict[str, Any]:
    """Return the document for a lock file and the table ``project`` of pyproject.toml."""
    found = list(_PACKAGE.finditer(requirements))
    ends = [match.start() for match in found[1:]] + [len(requirements)]
    components = [_component(match, requirements[match.end() : end]) for match, end in zip(found, ends, strict=True)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": project["name"],
                "name": project["name"],
                "version": project["version"],
                "description": project["description"],
                "licenses": [{"license": {"id": project["license"]}}],
            }
        },
        "components": components,
    }


def _component(match: re.Match[str], lines: str) -> dict[str, Any]:
    name, version, marker = match.groups()
    purl = f"pkg:pypi/{name}@{version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        # A package with a marker is installed on some platforms only.
        "scope": "optional" if marker else "required",
        "externalReferences": [
            {
                "type": "distribution",
                "url": f"https://pypi.org/project/{name}/{version}/#files",
                "hashes": [{"alg": "SHA-256", "content": content} for content in _HASH.findall(lines)],
            }
        ],
    }


if __name__ == "__main__":
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    print(json.dumps(bill((ROOT / "requirements.txt").read_text(encoding="utf-8"), tables["project"]), indent=2))
