"""The shape of the house: sizes, names, and what must not stand anywhere."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = sorted(path for folder in ("app", "alembic", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
SHIPPED = [path for path in PYTHON if path.relative_to(ROOT).parts[0] in ("app", "alembic")]
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "core", "manager", "misc", "kit"}
FILE_LINES = 400
FUNCTION_LINES = 70


def relative(path: Path) -> str:
    """A file's name for people."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_file_is_short(path: Path) -> None:
    """A file can be read in one sitting, and its functions on one screen."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= FILE_LINES
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= FUNCTION_LINES
    }
    assert long == {}


def test_names_say_what_is_inside() -> None:
    """No file or folder has a name that would fit anything."""
    named = {part.removesuffix(".py") for path in PYTHON for part in path.relative_to(ROOT).parts}
    assert named & FORBIDDEN_NAMES == set()


def test_migrations_are_no_package() -> None:
    """``alembic/__init__.py`` would shadow the library of that name."""
    assert list((ROOT / "alembic").rglob("__init__.py")) == []


@pytest.mark.parametrize("path", SHIPPED, ids=relative)
def test_nothing_is_left_to_do(path: Path) -> None:
    """The code that is shipped holds no note of something unfinished."""
    words = {"TO" + "DO", "FIX" + "ME", "XX" + "X"}
    text = path.read_text(encoding="utf-8")
    assert {word for word in words if word in text} == set()


@pytest.mark.parametrize("path", SHIPPED, ids=relative)
def test_production_code_knows_no_tests(path: Path) -> None:
    """Nothing that is shipped behaves differently under test."""
    text = path.read_text(encoding="utf-8")
    assert "pytest" not in text
    assert "import tests" not in text
    assert "from tests" not in text


def test_every_package_says_what_it_is() -> None:
    """Every module that is shipped begins with a sentence about itself, unless it is empty."""
    silent = [
        relative(path)
        for path in SHIPPED
        if path.read_text(encoding="utf-8").strip() and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []
