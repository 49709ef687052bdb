"""The next release of Larder, made from this checkout: it has one more migration and one more member of a product.

The changes are text replacements. If a text is missing, the test fails. They are those steps of docs/ARCHITECTURE.md for a new
field that a running service needs. ``app/products/tables.py`` and ``app/api/models.py`` only describe the table and the API, so
they stay as they are.
"""

import shutil
from pathlib import Path

from app.postgres.migrations import script_directory
from tests.harness.cluster import ROOT

SCHEMA = 3
MEMBER = b'"colour":"blue"'
_COLOUR = (
    "CASE WHEN (SELECT payload_schema FROM cache_generations WHERE relation = 'products') >= 3 THEN {}colour END AS colour"
)
_MIGRATION = '''"""Colours."""

from alembic import op

revision = "{next}"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE products ADD COLUMN colour text NOT NULL DEFAULT 'blue'")


def downgrade() -> None:
    op.execute("ALTER TABLE products DROP COLUMN colour")
'''
_CHANGES = {
    "app/products/payload.py": [
        ("SCHEMA = 2\n", f"SCHEMA = {SCHEMA}\n"),
        ('"updated_at":"{timestamp(product.updated_at)}"}}\'\n', '"updated_at":"{timestamp(product.updated_at)}"\'\n'),
        (
            "    ).encode()\n\n\ndef movement_fields",
            (
                "        + (f',\"colour\":{_text(product.colour)}}}' if product.colour else '}')\n"
                "    ).encode()\n\n\ndef movement_fields"
            ),
        ),
    ],
    "app/products/product.py": [("    updated_at: datetime\n", "    updated_at: datetime\n    colour: str | None = None\n")],
    "app/products/source.py": [
        ("created_at, updated_at, deleted_at = columns", "created_at, updated_at, deleted_at, colour = columns"),
        ("version, created_at, updated_at)\n", "version, created_at, updated_at, colour)\n"),
        ('"created_at", "updated_at"),', '"created_at", "updated_at", "colour"),'),
        ("payloads={1: _payload}", "payloads={1: _before, 2: _before}"),
        (
            "PRODUCTS = Entity(",
            "def _before(colour: str, **columns: Any) -> bytes:\n    return _payload(**columns)\n\n\nPRODUCTS = Entity(",
        ),
    ],
    "app/products/queries.py": [
        ("p.updated_at, p.deleted_at\n", f"p.updated_at, p.deleted_at, {_COLOUR.format('p.')}\n"),
        ("created_at, updated_at, deleted_at,", f"created_at, updated_at, deleted_at, {_COLOUR.format('')},"),
        ("created_at, updated_at, deleted_at\n", f"created_at, updated_at, deleted_at, {_COLOUR.format('')}\n"),
        ("NULL, NULL FROM products", "NULL, NULL, NULL FROM products"),
    ],
}


def make_next_release(directory: Path) -> Path:
    """Make the next release in ``directory``; return the root of its checkout."""
    root = directory / "next-release"
    for folder in ("app", "alembic"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    head = script_directory().get_current_head() or ""
    following = f"{int(head) + 1:04}"
    (root / "alembic" / "versions" / f"{following}_colour.py").write_text(_MIGRATION.format(head=head, next=following))
    for name, changes in _CHANGES.items():
        path = root / name
        text = path.read_text(encoding="utf-8")
        for before, after in changes:
            if before not in text:
                raise LookupError(f"{name} has no {before!r} any more: say in this file how a field is added now")
            text = text.replace(before, after)
        path.write_text(text, encoding="utf-8")
    return root
