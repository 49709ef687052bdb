"""Markdown tables, and the marks between which they stand in a page."""

from collections.abc import Iterable, Sequence

BEGIN, END = "<!-- made by `python -m tests.docs.generate`: {} -->\n", "<!-- end of {} -->"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a head."""
    return "".join(_line(cells) for cells in (heads, ["---"] * len(heads), *rows))


def block(page: str, name: str) -> str:
    """The text of a page between the marks of a generated table.

    Raises:
        ValueError: the page has no such marks.
    """
    _, begun, rest = page.partition(BEGIN.format(name))
    inside, ended, _ = rest.partition(END.format(name))
    if not (begun and ended):
        raise ValueError(f"the page has lost the marks of its table of {name}")
    return inside


def with_block(page: str, name: str, table: str) -> str:
    """The page with another table between the marks."""
    begin, end = BEGIN.format(name), END.format(name)
    return page.replace(begin + block(page, name) + end, begin + table + end)


def _line(cells: Iterable[str]) -> str:
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in escaped)}|\n"
