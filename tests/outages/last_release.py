"""The last release of Larder, made from this checkout: it knows nothing of reservations, and sells whatever lies in stock.

The changes are text replacements. If a text is missing, the test fails.
"""

import shutil
from pathlib import Path

from tests.harness.cluster import ROOT

_CHANGES = {
    "app/products/payload.py": [("SCHEMA = 3\n", "SCHEMA = 2\n")],
    "app/products/product.py": [("return self.stock - (self.reserved or 0)", "return self.stock")],
    "app/products/source.py": [
        ("payload=_payload,", "payload=_payload_before,"),
        ("{1: _payload_before, 2: _payload_before}", "{1: _payload_before}"),
    ],
}


def make_last_release(directory: Path) -> Path:
    """Make the last release in ``directory``; return the root of its checkout."""
    root = directory / "last-release"
    for folder in ("app", "alembic"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, changes in _CHANGES.items():
        path = root / name
        text = path.read_text(encoding="utf-8")
        for before, after in changes:
            if before not in text:
                raise LookupError(f"{name} has no {before!r} any more: say in this file what makes a release that old")
            text = text.replace(before, after)
        path.write_text(text, encoding="utf-8")
    return root
