"""``larder buckets``, and the check of ``larder serve`` that the database holds what the settings say."""

from collections.abc import Awaitable, Callable, Mapping
from typing import LiteralString

import psycopg
import pytest

from app.buckets import bucket_of, moved_to
from app.cli import parse
from app.cli.buckets import check_buckets
from app.cli.errors import CommandFailed
from app.settings import Settings
from tests.cli.larder_process import Larder
from tests.conftest import SessionPostgres
from tests.harness.servers import create_database, drop_database, execute, new_name

Buckets = Callable[..., Awaitable[str]]
_OPEN = "INSERT INTO reservations (id, expires_at, created_at, updated_at) VALUES (%s, now() + interval '1 h', now(), now())"
_LINE = """
INSERT INTO reservation_lines (reservation_id, line, product_id, quantity, expires_at)
VALUES (%s, 0, %s, 2, now() + interval '1 h')
"""
_TRUSTED = "UPDATE cache_audits SET fenced_until = now() + interval '1 h' WHERE namespace = %s"


async def _execute(url: str, statement: LiteralString, *values: object) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(statement, values)


@pytest.fixture
def buckets(own_servers: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Buckets:
    """A function that runs the command in this process, and returns what it prints."""
    for name, value in own_servers.items():
        monkeypatch.setenv(name, value)

    async def run(*arguments: str) -> str:
        command, parsed = parse(["buckets", *arguments])
        assert await command.run(parsed) == 0
        return capsys.readouterr().out.strip()

    return run


async def test_a_database_holds_all_until_it_is_given_a_part(buckets: Buckets) -> None:
    """The part is shown as it is written everywhere, and can be given anew."""
    assert await buckets("show") == "The database holds all products."
    assert await buckets("set", "5,0-3, 4") == "The database holds the buckets 0-5."
    assert await buckets("set", "0-1023") == "The database holds the buckets 0-1023."
    assert await buckets("show") == "The database holds the buckets 0-1023."
    assert await buckets("set", "none") == "The database holds no buckets."


@pytest.mark.parametrize("ranges", ["x", "1024", "5-4"])
async def test_what_is_no_part_is_refused(buckets: Buckets, ranges: str) -> None:
    """A sentence says what RANGES are."""
    with pytest.raises(CommandFailed, match=r"^RANGES "):
        await buckets("set", ranges)
    assert await buckets("show") == "The database holds all products."


_WAITING = """
INSERT INTO accepted_writes (caller, key, request_hash, product_ids, operation, target, conditions, body)
VALUES ('', %s, '', %s, 'putStock', '/products/x/stock', '[]', '{}')
"""


async def test_products_are_not_left_behind(buckets: Buckets, database_url: str) -> None:
    """Buckets that leave out a product or an open reservation are refused; tombstones do not count."""
    product, gone, cart = moved_to(7, "mug-0000"), moved_to(8, "cup-0000"), moved_to(9, "0" * 32)
    for name in (product, gone):
        await _execute(database_url, "INSERT INTO products (id, name, price_cents) VALUES (%s, 'x', 1)", name)
    await _execute(database_url, "DELETE FROM products WHERE id = %s", gone)
    with pytest.raises(CommandFailed, match=f"1 products are in other buckets; the first is {product}, in bucket 7"):
        await buckets("set", "0-6")
    await _execute(database_url, _OPEN, cart)
    with pytest.raises(CommandFailed, match=f"1 open reservations are in other buckets; the first is {cart}, in bucket 9"):
        await buckets("set", "0-7")
    await _execute(database_url, _WAITING, "k", [moved_to(10, "new-0000")])
    with pytest.raises(CommandFailed, match=r"an accepted write for .*, in bucket 10, waits to be decided"):
        await buckets("set", "7,9")
    assert await buckets("set", "7,9-10") == "The database holds the buckets 7,9-10."


async def test_a_database_in_use_is_left_as_it_is(buckets: Buckets, database_url: str, namespace: str) -> None:
    """An instance that runs would go on with the buckets of before; its connections show it, and so do its audits."""
    async with await psycopg.AsyncConnection.connect(database_url, application_name="larder"):
        with pytest.raises(CommandFailed, match=r"1 connections of Larder are open.* Stop every instance"):
            await buckets("set", "0-511")
    await _execute(database_url, _TRUSTED, namespace)
    with pytest.raises(CommandFailed, match="an audit ran a moment ago"):
        await buckets("set", "0-511")
    assert await buckets("show") == "The database holds all products."


async def test_settings_and_database_have_to_agree(buckets: Buckets, own_servers: Mapping[str, str], larder: Larder) -> None:
    """An instance does not start with another part than its database holds, whichever of the two was forgotten."""

    def settings(**more: str) -> Settings:
        return Settings.from_env({**own_servers, **more})

    await check_buckets(settings())
    with pytest.raises(CommandFailed, match="LARDER_BUCKETS is 0-511, and the database holds all products"):
        await check_buckets(settings(LARDER_BUCKETS="0-511"))
    await buckets("set", "0-511")
    await check_buckets(settings(LARDER_BUCKETS="0-255,256-511"))
    with pytest.raises(CommandFailed, match="LARDER_BUCKETS is not set, and the database holds the buckets 0-511"):
        await check_buckets(settings())
    await buckets("set", "none")
    with pytest.raises(CommandFailed, match="LARDER_BUCKETS is not set, and the database holds no buckets"):
        await check_buckets(settings())
    await buckets("set", "0-511")
    said = await larder.failure("serve", **own_servers, LARDER_BUCKETS="512-1023")
    assert said.startswith("LARDER_BUCKETS is 512-1023, and the database holds the buckets 0-511.")


async def test_a_move(
    buckets: Buckets, own_servers: Mapping[str, str], postgres: SessionPostgres, migrated_template: str
) -> None:
    """The command says what it does, and what to do with the settings. An instance may start meanwhile with either part."""
    name = new_name()
    there = await create_database(postgres.url, name, template=migrated_template)
    try:
        await buckets("set", "0-1023")
        with pytest.raises(CommandFailed, match="the target was never given buckets"):
            await buckets("move", "512-1023", "--to", there)
        with pytest.raises(CommandFailed, match="--to is not a PostgreSQL URL"):
            await buckets("move", "512-1023", "--to", "http://nowhere")
        await execute(there, "INSERT INTO pair_buckets (held) VALUES ('')")
        said = await buckets("move", "512-1023", "--to", there)
        assert "0 products were moved. The other database holds the buckets 512-1023 now." in said
        assert said.endswith("The database holds the buckets 0-511.")
        await execute(own_servers["LARDER_DATABASE_URL"], "UPDATE pair_buckets SET moving = '512-600'")
        for ranges in ("0-511", "0-600"):
            await check_buckets(Settings.from_env({**own_servers, "LARDER_BUCKETS": ranges}))
        with pytest.raises(CommandFailed, match="LARDER_BUCKETS is 0-1023, and the database holds the buckets 0-511"):
            await check_buckets(Settings.from_env({**own_servers, "LARDER_BUCKETS": "0-1023"}))
        assert "The buckets 512-600 move to or from another database" in await buckets("show")
    finally:
        await drop_database(postgres.url, name)


async def test_a_database_that_was_restored_to_before_a_move(buckets: Buckets, own_servers: Mapping[str, str]) -> None:
    """The bucket is of another pair now: its products are buried, with what is held of them and what waits for them."""
    url = own_servers["LARDER_DATABASE_URL"]
    stays, moved = moved_to(3, "mug-0000"), moved_to(500, "cup-0000")
    for product_id in (stays, moved):
        await _execute(url, "INSERT INTO products (id, name, price_cents, stock) VALUES (%s, 'x', 1, 5)", product_id)
        cart = moved_to(bucket_of(product_id), "0" * 32)
        await _execute(url, _OPEN, cart)
        await _execute(url, _LINE, cart, product_id)
        await _execute(url, "UPDATE products SET reserved = 2 WHERE id = %s", product_id)
        await _execute(url, _WAITING, product_id, [product_id])
    await buckets("set", "0-1023")
    await _execute(url, "UPDATE pair_buckets SET moving = '500'")
    with pytest.raises(CommandFailed, match="the buckets 500 move to or from another database"):
        await buckets("set", "0-511")
    said = await buckets("set", "0-499", "--bury")
    assert said == "1 products of other buckets were deleted.\nThe database holds the buckets 0-499."
    assert await execute(url, "SELECT id, stock, reserved FROM products WHERE deleted_at IS NULL") == [(stays, 5, 2)]
    ledger = "SELECT reason, reference, delta, reserved_delta FROM stock_movements ORDER BY version DESC, product_id LIMIT 1"
    assert await execute(url, ledger) == [("deletion", "larder buckets set --bury", -5, -2)]
    assert await execute(url, "SELECT product_id FROM reservation_lines WHERE open > 0") == [(stays,)]
    assert await execute(url, "SELECT key FROM accepted_writes WHERE failed_at IS NULL") == [(stays,)]


async def test_a_database_of_an_earlier_release_holds_all(buckets: Buckets, own_servers: Mapping[str, str]) -> None:
    """Before the migration nobody can have given it a part."""
    await execute(own_servers["LARDER_DATABASE_URL"], "DROP TABLE pair_buckets")
    assert await buckets("show") == "The database holds all products."
    await check_buckets(Settings.from_env(own_servers))
