"""The labels of the image."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_labels_are_those_of_the_project() -> None:
    """Title, description, version and licence of the image are what pyproject.toml says."""
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', (ROOT / "Dockerfile").read_text(encoding="utf-8")))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert labels == {
        "title": project["name"].capitalize(),
        "description": project["description"],
        "version": project["version"],
        "licenses": project["license"],
        "revision": "${REVISION}",
    }
