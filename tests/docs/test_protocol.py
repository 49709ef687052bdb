"""The protocol's page names tests for all that it promises, and the tests are there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTOCOL = ROOT / "docs" / "PROTOCOL.md"
PROMISES = [*(f"G{number}" for number in range(1, 8)), *(f"R{number}" for number in range(1, 11))]
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
MODEL_LINE = re.compile(r"^- model: (.+)$", re.MULTILINE)
HOLE = re.compile(r"`(hole-[\w-]+)`")


@cache
def found_in(path: str) -> set[str]:
    """The test functions of a file."""
    if not (ROOT / path).exists():
        return set()
    return {
        node.name
        for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


@cache
def searches() -> set[str]:
    """The names of all searches of the model."""
    names: set[str] = set()
    for node in ast.parse((ROOT / "model" / "check.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            names |= {key.value for key in node.value.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return names


def section(title: str) -> str:
    """What stands under a heading of the third level."""
    _, found, rest = PROTOCOL.read_text(encoding="utf-8").partition(f"\n### {title}\n")
    assert found, f"docs/PROTOCOL.md has no section {title}"
    return re.split(r"\n##+ ", rest, maxsplit=1)[0]


def test_every_test_that_is_named_exists() -> None:
    """A test that was renamed or removed takes its line in the page with it."""
    named = NAMED_TEST.findall(PROTOCOL.read_text(encoding="utf-8"))
    assert len(named) > 40
    assert [f"{path}::{name}" for path, name in named if name not in found_in(path)] == []


@pytest.mark.parametrize("promise", PROMISES)
def test_every_guarantee_and_rule_names_its_tests(promise: str) -> None:
    """A promise without a test is a wish; one without its words on the page is a secret."""
    assert NAMED_TEST.findall(section(promise))
    assert f"**{promise} " in PROTOCOL.read_text(encoding="utf-8")


def test_every_search_of_the_model_that_is_named_exists() -> None:
    """Searches are named as `model/check.py` names them."""
    text = PROTOCOL.read_text(encoding="utf-8")
    named = [name for line in MODEL_LINE.findall(text) for name in re.findall(r"`([\w-]+)`", line)] + HOLE.findall(text)
    assert len(named) > 20
    assert [name for name in named if name not in searches()] == []


def test_each_guard_is_dropped_in_a_search() -> None:
    """docs/MODEL.md has a row for every guard of the protocol's page, in its order, and names searches that there are."""
    guards = first_column(PROTOCOL, "## What each guard defeats")
    model = rows_under(ROOT / "docs" / "MODEL.md", "## Each guard and its search")
    assert [row[0] for row in model[: len(guards)]] == guards
    for guard, where in model[: len(guards)]:
        named = set(re.findall(r"`([a-z-]+)`", where))
        assert named <= searches(), guard
        assert named or "not in the model" in where, guard


def rows_under(page: Path, heading: str) -> list[list[str]]:
    """The rows of a section's tables, without their heads."""
    section = page.read_text(encoding="utf-8").split(f"{heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    heads = ("| guard ", "| fault ")
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if not line.startswith(heads)]


def first_column(page: Path, heading: str) -> list[str]:
    """What the rows of a section's tables are about."""
    return [row[0] for row in rows_under(page, heading)]
