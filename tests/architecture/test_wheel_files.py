"""The wheel of the cache has every file that it needs. ``tests/wheel`` installs it, and takes longer."""

import tomllib

from tests.harness.cluster import ROOT

_POSTGRES = "../../app/postgres/"


def test_files_of_postgres() -> None:
    """The wheel has all of them but the migrations, which are those of Larder's own tables."""
    settings = tomllib.loads((ROOT / "packaging" / "larder-cache" / "pyproject.toml").read_text(encoding="utf-8"))
    included = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    present = {_POSTGRES + path.name for path in (ROOT / "app" / "postgres").glob("*.py")}
    assert {name for name in included if name.startswith(_POSTGRES)} == present - {_POSTGRES + "migrations.py"}
