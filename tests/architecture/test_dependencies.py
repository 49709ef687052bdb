"""Who may know whom: one call down, one value up. Read from the imports, so that a shortcut shows before it hurts."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
APP = ROOT / "app"
MODULES = sorted(APP.rglob("*.py"))

IO_LIBRARIES = {"redis", "psycopg", "sqlalchemy", "alembic", "fastapi", "starlette", "httpx", "uvicorn", "socket", "ssl"}
EVERYONE = {"app.main", "app.cli"}

# From the top down. A package imports only what lies on floors below its own: nothing goes up, and there is no circle.
FLOORS = (
    {"app.cli"},
    {"app.server"},
    {"app.main"},
    {"app.api", "app.places"},
    {"app.feed"},
    {"app.access", "app.dashboard", "app.doctor", "app.products", "app.telemetry"},
    {"app.cache"},
    {"app.importer", "app.passwords", "app.postgres", "app.private_servers", "app.settings", "app.sparse_log"},
    {"app.buckets", "app.urls"},
)
# What a package must not know, though it lies below or is a library.
SQL = {"sqlalchemy", "psycopg", "alembic"}
HTTP = {"fastapi", "starlette", "uvicorn"}
APART = {"app.importer", "app.private_servers"}
NEVER = {
    "app.server": {"app.postgres", "redis", *SQL, *APART},
    "app.main": APART,
    "app.api": {"redis", *SQL, *APART},
    "app.access": {"app.settings", "app.cache", "redis", *SQL, *HTTP, *APART},
    "app.feed": {"app.settings", "redis", *HTTP, *APART},
    # It knows the buckets of durations, and does no I/O.
    "app.dashboard": {"app.settings", "redis", *SQL, *HTTP, *APART},
    "app.doctor": {"app.settings", "sqlalchemy", "alembic", *HTTP, *APART},
    "app.telemetry": {"app.settings", "redis", *SQL, *HTTP, *APART},
    "app.products": {"app.settings", "redis", *HTTP, *APART},
    "app.cache": {"app.postgres", "app.settings", *SQL, *HTTP, *APART},
    "app.postgres": {"redis", *HTTP},
    # A client of the HTTP API, and nothing else.
    "app.importer": {"app.postgres", "app.private_servers", "app.settings", "redis", *SQL, *HTTP},
}
# The rooms of the cache, and what each must not know beside what `app.cache` must not. The protocol is whatever lies in none.
CACHE_ROOMS = {
    "app.cache.redis": {"app.postgres", "app.cache.postgres", *SQL},
    "app.cache.postgres": {"redis", "app.cache.redis", "sqlalchemy", "alembic"},
}
CACHE_FACE = {"app.cache", "app.cache.caches", "app.cache.opening"}
"""The modules that put protocol and rooms together, for a process as a whole."""
WRITTEN_RELATIVE = ("app.cache", "app.postgres")
"""The packages whose files are a library of their own, too, under another name."""
PURE = ("app.products.product", "app.products.commands", "app.products.errors", "app.products.payload")


def name_of(path: Path) -> str:
    """A file's name as a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at whatever depth; of ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = absolute(path, node)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def absolute(path: Path, node: ast.ImportFrom) -> str:
    """The full name of the module that ``from … import`` names."""
    if not node.level:
        return node.module or ""
    package = path.relative_to(ROOT).parts[: -node.level]
    return ".".join((*package, *filter(None, [node.module])))


def within(module: str, package: str) -> bool:
    """Whether a module is the package or lies in it."""
    return module == package or module.startswith(package + ".")


def broken(path: Path, forbidden: set[str]) -> set[str]:
    """The imports of a file that lie in what it must not know."""
    return {name for name in imports(path) if any(within(name, package) for package in forbidden)}


def test_imports_are_read(tmp_path: Path) -> None:
    """The reader sees every form of import, also inside of functions; else the rules below could not fail."""
    source = tmp_path / "source.py"
    source.write_text("import redis.asyncio as r\nfrom app import api\ndef f():\n    from sqlalchemy.ext import asyncio\n")
    assert broken(source, {"redis", "app.api", "sqlalchemy"}) == {
        "redis.asyncio",
        "app.api",
        "sqlalchemy.ext",
        "sqlalchemy.ext.asyncio",
    }


def test_relative_imports_are_read() -> None:
    """A relative import counts as the module that it names."""
    names = set(imports(APP / "cache" / "postgres" / "table_audit.py"))
    assert {"app.cache.postgres.table_queries", "app.cache.ports", "app.postgres.errors"} <= names


def test_every_package_is_on_a_floor() -> None:
    """No package escapes the rules, and the rules name no package that is gone."""
    packages = {".".join(name_of(path).split(".")[:2]) for path in MODULES} - {"app"}
    assert packages == set().union(*FLOORS)
    assert NEVER.keys() <= packages


@pytest.mark.parametrize(("floor", "package"), [(floor, name) for floor, names in enumerate(FLOORS) for name in sorted(names)])
def test_package_knows_only_what_lies_below(floor: int, package: str) -> None:
    """A package imports nothing of what lies above it or beside it, and nothing that it is forbidden."""
    forbidden = set().union(*FLOORS[: floor + 1], NEVER.get(package, set())) - {package}
    files = [path for path in MODULES if within(name_of(path), package)]
    knows_postgres = {path for path in files if within(name_of(path), "app.cache.postgres") or name_of(path) in CACHE_FACE}
    allowed = {"app.postgres", "psycopg"}
    found = {
        name_of(path): names
        for path in files
        if (names := broken(path, forbidden - allowed if path in knows_postgres else forbidden))
    }
    assert found == {}


@pytest.mark.parametrize("room", CACHE_ROOMS)
def test_rooms_of_the_cache_are_apart(room: str) -> None:
    """The Redis side and the PostgreSQL side of the cache know the protocol, and neither knows the other."""
    files = [path for path in MODULES if within(name_of(path), room)]
    assert files
    assert {name_of(path): names for path in files if (names := broken(path, CACHE_ROOMS[room]))} == {}


def test_only_the_face_is_known_by_its_name() -> None:
    """``app.cache`` exports what a service needs, and what it exports is there."""
    face = importlib.import_module("app.cache")
    assert len(face.__all__) == len(set(face.__all__))
    assert all(getattr(face, name).__module__.startswith(("app.cache", "app.postgres", "types")) for name in face.__all__)


def test_component_is_written_relative() -> None:
    """``app.cache`` and ``app.postgres`` name each other relatively, and no other part of Larder."""
    absolute_names = {
        f"{name_of(path)}: {name}"
        for path in MODULES
        if any(within(name_of(path), package) for package in WRITTEN_RELATIVE)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if not (isinstance(node, ast.ImportFrom) and node.level) and within(name, "app")
    }
    assert absolute_names == set()


def is_protocol(path: Path) -> bool:
    """Whether a file belongs to the cache's protocol, and so to none of its rooms."""
    name = name_of(path)
    return within(name, "app.cache") and name not in CACHE_FACE and not any(within(name, room) for room in CACHE_ROOMS)


@pytest.mark.parametrize("path", [path for path in MODULES if is_protocol(path) or name_of(path) in PURE], ids=name_of)
def test_algorithm_does_no_io(path: Path) -> None:
    """The protocol and the rules of the domain reach no library that talks to the world, nor a room of the cache."""
    assert broken(path, IO_LIBRARIES | CACHE_ROOMS.keys()) == set()


def test_only_the_composition_root_knows_everyone() -> None:
    """Nobody but ``app.main`` and ``app.cli`` puts the cache's adapter and the catalogue's adapter together."""
    both = {
        name_of(path)
        for path in MODULES
        if any(within(name, "app.cache.redis") or within(name, "app.places") for name in imports(path))
        and any(within(name, "app.products") for name in imports(path))
    }
    assert both
    assert all(any(within(name, root) for root in EVERYONE) for name in both)


def test_opentelemetry_is_in_one_file() -> None:
    """The SDK is an optional extra: only the adapter imports it, and whoever imports the adapter does so when it is needed."""
    assert {name_of(path) for path in MODULES if broken(path, {"opentelemetry"})} == {"app.telemetry.otlp"}
    tops = {name_of(path): ast.parse(path.read_text(encoding="utf-8")).body for path in MODULES}
    assert [
        name
        for name, body in tops.items()
        for node in body
        if isinstance(node, ast.ImportFrom) and node.module == "app.telemetry.otlp"
    ] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_happens_at_import(path: Path) -> None:
    """A module's top level calls no constructor of an engine, client, application, or settings."""
    made = {"create_async_engine", "ConnectionPool", "FastAPI", "Redis", "Settings", "from_env", "create_app", "Database"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign | ast.Expr)]
    called = {
        call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
        for node in top
        for call in ast.walk(node)
        if isinstance(call, ast.Call)
    }
    assert called & made == set()


@pytest.mark.parametrize("folder", ["benchmarks", "tests/harness"])
def test_benchmarks_know_the_harness_alone(folder: str) -> None:
    """Benchmarks import nothing of the tests but ``tests.harness``, and the harness imports none of the other tests."""
    names = {name for path in (ROOT / folder).rglob("*.py") for name in imports(path) if within(name, "tests")}
    assert names
    assert {name for name in names if name != "tests" and not within(name, "tests.harness")} == set()
