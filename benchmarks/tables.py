"""Rows of results as a table in Markdown."""

from collections.abc import Mapping, Sequence

from benchmarks.results import Cell


def markdown(rows: Sequence[Mapping[str, Cell]]) -> str:
    """Write rows as a table: figures to the right, lists left out, what is not there as a dash."""
    columns = [name for name, value in (rows[0] if rows else {}).items() if not isinstance(value, list | tuple)]
    figures = {name for name in columns if any(isinstance(row[name], int | float) for row in rows)}
    lines = [
        "| " + " | ".join(name.replace("_", " ") for name in columns) + " |",
        "|" + "|".join("---:" if name in figures else "---" for name in columns) + "|",
    ]
    lines += ["| " + " | ".join(_cell(row[name]) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
