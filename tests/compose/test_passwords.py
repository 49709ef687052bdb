"""The passwords of ``docker compose up``."""

import importlib.util
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

SCRIPT = Path(__file__).parents[2] / "compose" / "passwords.py"
HARD = 'p@ss:w/rd%41"\\#$'


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("passwords", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


passwords = _load()


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    for server in ("postgresql", "redis"):
        (tmp_path / server).mkdir()
    return tmp_path


def _password_in(url: Path) -> str:
    return unquote(urlsplit(url.read_text()).password or "")


def test_a_first_start_without_env_generates_different_passwords(volumes: Path) -> None:
    """Nobody has to think of a password, and no two installations or servers share one."""
    passwords.provide(volumes, {})
    found = {server: _password_in(volumes / server / "url") for server in ("postgresql", "redis")}
    assert len(set(found.values())) == 2
    assert all(len(password) >= 32 for password in found.values())


def test_all_files_of_a_server_hold_the_same_password(volumes: Path) -> None:
    """A password with every character that a URL or a configuration line gives a meaning to reaches all of them unchanged."""
    passwords.provide(volumes, {"POSTGRES_PASSWORD": HARD, "REDIS_PASSWORD": HARD})
    for server in ("postgresql", "redis"):
        assert (volumes / server / "password").read_text() == HARD
        assert _password_in(volumes / server / "url") == HARD
    assert (volumes / "redis" / "redis.conf").read_text() == 'requirepass "p@ss:w/rd%41\\"\\\\#$"\n'


def test_a_second_start_keeps_the_passwords(volumes: Path) -> None:
    """The database was made with the first one; also when `.env` repeats it."""
    passwords.provide(volumes, {"REDIS_PASSWORD": "first"})
    before = {path: path.read_text() for path in volumes.rglob("*") if path.is_file()}
    assert passwords.provide(volumes, {"REDIS_PASSWORD": "first"}) == []
    assert {path: path.read_text() for path in volumes.rglob("*") if path.is_file()} == before


def test_a_start_that_was_cut_off_is_made_good(volumes: Path) -> None:
    """Without the URL, which is written last, nothing has used the password: all files are written anew, and agree."""
    passwords.provide(volumes, {})
    (volumes / "postgresql" / "url").unlink()
    passwords.provide(volumes, {})
    assert (volumes / "postgresql" / "password").read_text() == _password_in(volumes / "postgresql" / "url")


def test_another_password_later_is_refused(volumes: Path) -> None:
    """The server keeps its old one, so taking the new one would only lock Larder out."""
    passwords.provide(volumes, {"POSTGRES_PASSWORD": "first"})
    with pytest.raises(passwords.PasswordChanged, match="POSTGRES_PASSWORD is not the password"):
        passwords.provide(volumes, {"POSTGRES_PASSWORD": "second"})
    assert _password_in(volumes / "postgresql" / "url") == "first"


@pytest.mark.parametrize("given", ["x\nsave 1 1", "two words", "bell\a"])
def test_a_password_with_white_space_is_refused(volumes: Path, given: str) -> None:
    """A line break would become a second line of Redis's configuration."""
    with pytest.raises(ValueError, match="REDIS_PASSWORD"):
        passwords.provide(volumes, {"REDIS_PASSWORD": given})
    assert not (volumes / "redis" / "url").exists()
