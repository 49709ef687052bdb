"""The guards of the protocol, read from docs/guards.toml, and the tables made of them."""

import tomllib
from functools import cache
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from tests.docs.tables import markdown
from tests.simulation.mutants import BY_NAME

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


def reasons_table() -> str:
    """Each guard and the schedule that it defeats."""
    return markdown(
        ("rule", "guard", "without it", "code"),
        [(guard.rule, guard.name, guard.without, _codes(guard.code)) for guard in guards()],
    )


def evidence_table() -> str:
    """Each guard and what notices when it is dropped."""
    return markdown(
        ("guard", "model", "simulation", "tests"),
        [
            (
                f"{guard.name} ({guard.rule})",
                _codes(guard.searches) or "none",
                "; ".join(_mutant(name) for name in guard.mutants) or "none",
                "; ".join(part for part in (_codes(guard.tests), guard.note) if part),
            )
            for guard in guards()
        ],
    )


def _mutant(name: str) -> str:
    mutant = BY_NAME[name]
    caught = f"`{mutant.schedule.__name__}`" if mutant.schedule else "seeds"
    return f"`{name}`: {caught}{f' with {_codes(mutant.behind)}' if mutant.behind else ''}"


def _codes(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)
