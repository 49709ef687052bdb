"""Which tests prove which guarantee or rule, read from their markers.

``@pytest.mark.guarantee("G3", "R4")`` stands on a test function, or as ``pytestmark`` in a file all of whose tests it is for.
"""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

from tests.docs.tables import markdown

TESTS = Path(__file__).parents[1]
PROMISES = ("G1", "G2", "G2a", *(f"G{number}" for number in range(3, 8)), *(f"R{number}" for number in range(1, 12)))


@cache
def functions_by_name() -> dict[str, tuple[Path, ...]]:
    """Every test function by name, with the files that have one of that name."""
    found: dict[str, tuple[Path, ...]] = {}
    for path, tree in _files():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found[node.name] = (*found.get(node.name, ()), path)
    return found


@cache
def marked() -> dict[str, tuple[str, ...]]:
    """For each promise that a marker names, the tests that bear it."""
    found: dict[str, list[str]] = defaultdict(list)
    for path, tree in _files():
        file = str(path.relative_to(TESTS).with_suffix(""))
        for node in tree.body:
            if isinstance(node, ast.Assign) and any(
                isinstance(name, ast.Name) and name.id == "pytestmark" for name in node.targets
            ):
                _note(found, node.value, file)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for decorator in node.decorator_list:
                    _note(found, decorator, f"{file}::{node.name}")
    return {promise: tuple(tests) for promise, tests in found.items()}


def promises_table() -> str:
    """Each guarantee and rule and the files with the tests that prove it."""
    return markdown(("promise", "tests"), [(promise, _files_of(marked().get(promise, ()))) for promise in PROMISES])


def _files_of(tests: tuple[str, ...]) -> str:
    return ", ".join(f"`tests/{file}.py`" for file in sorted({test.partition("::")[0] for test in tests}))


def _note(found: dict[str, list[str]], expression: ast.expr, test: str) -> None:
    for node in ast.walk(expression):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.guarantee":
            for argument in node.args:
                found[ast.literal_eval(argument)].append(test)


@cache
def _files() -> tuple[tuple[Path, ast.Module], ...]:
    return tuple((path, ast.parse(path.read_text(encoding="utf-8"))) for path in sorted(TESTS.rglob("test_*.py")))
