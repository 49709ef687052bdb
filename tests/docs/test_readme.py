"""What the pages say of the code is still so."""

import re
from pathlib import Path

import pytest

from tests.docs.settings_table import README, in_readme, table

ROOT = README.parent
PAGES = sorted([README, *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)")
NAMED_PATH = re.compile(r"`((?:app|alembic|compose|docs|model|tests)/[A-Za-z0-9_./-]+)`")


def test_settings_table_is_that_of_the_code() -> None:
    """The README lists every setting, with the default, the limits and the description that the service runs with."""
    assert in_readme(README.read_text(encoding="utf-8")) == table(), "run `python -m tests.docs.settings_table`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_leads_somewhere(page: Path) -> None:
    """Every relative link of a page is a file of this checkout."""
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not link.startswith(("http:", "https:", "/"))]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_path_that_is_named_exists(page: Path) -> None:
    """A page that names a file of ours is not about a file that was moved or removed."""
    named = NAMED_PATH.findall(page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []
