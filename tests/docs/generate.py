"""The tables that pages of docs/ have from code and data. ``python -m tests.docs.generate`` renews all of them."""

from collections.abc import Callable
from pathlib import Path

from tests.docs.guards import guards_table
from tests.docs.promises import promises_table
from tests.docs.settings_table import settings_table
from tests.docs.tables import with_block

DOCS = Path(__file__).parents[2] / "docs"
TABLES: dict[tuple[str, str], Callable[[], str]] = {
    ("SETTINGS.md", "settings"): settings_table,
    ("PROOF.md", "guards"): guards_table,
    ("PROOF.md", "promises"): promises_table,
}
"""Page and name of each generated table."""


def main() -> None:
    """Write every table into its page."""
    for (page, name), table in TABLES.items():
        path = DOCS / page
        path.write_text(with_block(path.read_text(encoding="utf-8"), name, table()), encoding="utf-8")


if __name__ == "__main__":
    main()
