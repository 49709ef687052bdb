"""The wheel `larder-cache` in an environment of its own: what it holds, its README, and its guide."""

import re
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest

from app.private_servers import RedisServer
from tests.wheel.conftest import ROOT, Environment

PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = [pytest.mark.heavy, pytest.mark.slow]


def program_of(page: Path) -> str:
    """Return the program that the blocks of a page make."""
    return "\n\n".join(PYTHON.findall(page.read_text(encoding="utf-8")))


def test_same_files(wheel: Path) -> None:
    """Every file of the cache is in the wheel, byte for byte, with its licence, its types and the guide."""
    packed = zipfile.ZipFile(wheel)
    inside = {name for name in packed.namelist() if name.startswith("larder_cache/")}
    ours = {
        f"larder_cache/{path.relative_to(ROOT / 'app')}": path
        for package in ("cache", "postgres")
        for path in (ROOT / "app" / package).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__" and path.name != "migrations.py"
    }
    assert inside == {*ours, *(f"larder_cache/{name}" for name in ("__init__.py", "py.typed", "EMBEDDING.md"))}
    assert [name for name, path in ours.items() if packed.read(name) != path.read_bytes()] == []
    assert any(name.endswith("licenses/LICENSE") for name in packed.namelist())


def test_requirements(alone: Environment) -> None:
    """The wheel asks for nothing that Larder itself does not, and importing it imports neither Larder nor a web framework."""
    script = """
import sys
from importlib.metadata import requires
import larder_cache
assert all(hasattr(larder_cache, name) for name in larder_cache.__all__) and "open_caches" in larder_cache.__all__
print(*(name for name in ("app", "fastapi", "starlette", "sqlalchemy", "pydantic") if name in sys.modules))
print(*requires("larder-cache"), sep="\\n")
"""
    imported, *declared = alone.run(script).splitlines()
    assert imported == ""
    names = {re.split(r"[\\[>; ]", text)[0] for text in declared}
    assert names == {"hiredis", "psycopg", "redis", "typing-extensions"}
    assert names <= {re.split(r"[\[>; ]", text)[0] for text in requires("larder") or ()}


@pytest.mark.guarantee("G1")
@pytest.mark.parametrize("page", ["docs/EMBEDDING.md", "packaging/larder-cache/README.md"])
def test_the_programs_of_a_page_run_on_the_wheel_alone(
    alone: Environment, empty_database_url: str, private_redis: RedisServer, page: str
) -> None:
    """The programs of the guide and of the README do what their assertions say."""
    alone.run(program_of(ROOT / page), database_url=empty_database_url, redis_url=private_redis.url)
