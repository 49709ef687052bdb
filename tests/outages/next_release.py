"""The next release of Larder, made from this checkout: it has one more migration and one more member of a product.

The changes are text replacements. If a text is missing, the test fails. They are those steps of docs/ARCHITECTURE.md for a new
field that a running service needs. ``app/products/tables.py`` and ``app/api/models.py`` only describe the table and the API, so
they stay as they are.
"""

import shutil
from pathlib import Path

from app.postgres.migrations import script_directory
from tests.harness.cluster import ROOT

SCHEMA = 4
MEMBER = b'"colour":"blue"'
_COLOUR = (
    "CASE WHEN (SELECT payload_schema FROM cache_generations WHERE relation = 'products') >= 4 THEN {}colour END AS colour"
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
        ("SCHEMA = 3\n", f"SCHEMA = {SCHEMA}\n"),
        (
            "{_held(product)}}}'\n    ).encode()",
            (
                "{_held(product)}'\n"
                "        + (f',\"colour\":{_text(product.colour)}}}' if product.colour else '}')\n"
                "    ).encode()"
            ),
        ),
    ],
    "app/products/product.py": [
        ("    reserved: int | None = None\n", "    reserved: int | None = None\n    colour: str | None = None\n")
    ],
    "app/products/source.py": [
        ("deleted_at, reserved = columns", "deleted_at, reserved, colour = columns"),
        ("version, created_at, updated_at, reserved)\n", "version, created_at, updated_at, reserved, colour)\n"),
        ('"updated_at", "reserved"),', '"updated_at", "reserved", "colour"),'),
        ("def _payload_before(reserved: int, ", "def _payload_before(reserved: int, colour: str, "),
        ("2: _payload_before}", "2: _payload_before, 3: _before}"),
        (
            "PRODUCTS = Entity(",
            "def _before(colour: str, **columns: Any) -> bytes:\n    return _payload(**columns)\n\n\nPRODUCTS = Entity(",
        ),
    ],
    "app/products/queries.py": [
        ("THEN p.reserved END AS reserved\n", f"THEN p.reserved END AS reserved, {_COLOUR.format('p.')}\n"),
        ("THEN reserved END AS reserved,", f"THEN reserved END AS reserved, {_COLOUR.format('')},"),
        ("NULL, NULL FROM products", "NULL, NULL, NULL FROM products"),
    ],
    "app/products/reservation_queries.py": [
        ("THEN reserved END AS reserved,", f"THEN reserved END AS reserved, {_COLOUR.format('')},"),
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
