"""Keys in a file."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.access.key_file import KeyFile, KeyFileError, file_entry
from app.access.keys import Scope, id_of, make_key

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def entry(expires: datetime | None = None) -> tuple[bytes, str]:
    """Make a key; return its digest and its lines."""
    key, digest = make_key()
    fields = {"id": id_of(key), "client": "till", "scopes": ["stock:adjust"], "sha256": digest.hex()}
    return digest, file_entry({**fields, "rate_per_s": 200.0, "expires": expires})


async def test_lines_that_were_made_are_read(tmp_path: Path) -> None:
    """What `larder keys create --offline` prints is a valid file, alone and together with others."""
    path = tmp_path / "keys.toml"
    made = [entry(), entry(NOW + timedelta(seconds=30)), entry(NOW)]
    path.write_text("".join(lines for _, lines in made))
    source = KeyFile(path, lambda: NOW)
    found = await source.valid_keys("")
    assert found.keys is not None
    assert [key.digest for key in found.keys] == [digest for digest, _ in made[:2]]
    assert [key.expires_in_s for key in found.keys] == [float("inf"), 30.0]
    assert found.keys[0].scopes == {Scope.STOCK_ADJUST}
    assert found.keys[0].rate_per_s == 200.0
    assert (await source.valid_keys(found.generation)).keys is None
    path.write_text(made[0][1])
    changed = await source.valid_keys(found.generation)
    assert changed.keys is not None
    assert len(changed.keys) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nonsense", "not TOML"),
        ("[[key]]\nid = 'x'", "key.0.id"),
        ("[[keys]]\n", "keys"),
        (entry()[1].replace("stock:adjust", "stock:teleport"), "key.0.scopes"),
        (entry()[1].replace("client = ", "clients = "), "key.0.client"),
    ],
)
async def test_wrong_file_is_refused_with_the_place(tmp_path: Path, content: str, said: str) -> None:
    """A file with a mistake gives no key at all, so that no half of it counts."""
    path = tmp_path / "keys.toml"
    path.write_text(content)
    with pytest.raises(KeyFileError, match=said):
        await KeyFile(path).valid_keys("")


async def test_missing_file_is_named(tmp_path: Path) -> None:
    """The path and the reason are in the message."""
    with pytest.raises(KeyFileError, match="nowhere"):
        await KeyFile(tmp_path / "nowhere").valid_keys("")
