"""The guards of the protocol, read from docs/guards.toml, and the table made of them."""

import tomllib
from functools import cache
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from tests.docs.tables import markdown

DATA = Path(__file__).parents[2] / "docs" / "guards.toml"


class Guard(BaseModel, frozen=True, extra="forbid"):
    """One guard; docs/guards.toml says what each field means."""

    name: str
    rule: str
    without: str
    code: tuple[str, ...]
    searches: tuple[str, ...] = ()
    mutants: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    note: str = ""


@cache
def guards() -> tuple[Guard, ...]:
    """Every guard, in the order of the rules."""
    return TypeAdapter(tuple[Guard, ...]).validate_python(tomllib.loads(DATA.read_text(encoding="utf-8"))["guard"])


def guards_table() -> str:
    """Each guard, the schedule that it defeats, and what notices that it is gone."""
    return markdown(
        ("guard", "without it", "noticed by"),
        [
            (
                f"{guard.rule} {guard.name}",
                guard.without,
                ", ".join(f"`{name}`" for name in (*guard.searches, *guard.mutants, *guard.tests)),
            )
            for guard in guards()
        ],
    )
