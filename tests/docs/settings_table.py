"""The README's table of settings, made from `app.settings`. `python -m tests.docs.settings_table` renews it."""

from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from app.settings import PREFIX, Settings

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- settings: made by `python -m tests.docs.settings_table` -->\n", "<!-- end of settings -->"
UNITS = {"ms": "ms", "s": "s", "bytes": "bytes", "percent": "%", "keys": "keys", "rows": "rows"}


def table() -> str:
    """A line for each setting: variable, default, unit, allowed values, meaning."""
    lines = ["| variable | default | unit | allowed | meaning |", "|---|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = f"`{field.default}`" if field.default != "" else "none"
        cells = (f"`{PREFIX}{name.upper()}`", default, _unit(name), _allowed(field), field.description or "")
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def in_readme(text: str) -> str:
    """What stands between the two marks."""
    _, found, rest = text.partition(BEGIN)
    inside, ended, _ = rest.partition(END)
    if not (found and ended):
        raise ValueError("README.md has lost the marks of its table of settings")
    return inside


def _unit(name: str) -> str:
    return UNITS.get(name.rpartition("_")[2], "")


def _allowed(field: FieldInfo) -> str:
    least, most = _bound(field, "ge"), _bound(field, "le")
    return "" if least is None or most is None else f"{least} to {most}"


def _bound(field: FieldInfo, kind: str) -> Any:
    return next((found for rule in field.metadata if (found := getattr(rule, kind, None)) is not None), None)


if __name__ == "__main__":
    before = README.read_text(encoding="utf-8")
    README.write_text(before.replace(BEGIN + in_readme(before) + END, BEGIN + table() + END), encoding="utf-8")
