"""Every rule of the domain is checked twice, in Python and in PostgreSQL, and both say the same."""

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.products.product import MAX_INTEGER, is_product_id, name_fault
from tests.conftest import SessionPostgres
from tests.harness.servers import create_database, drop_database, new_name

ALPHABET = st.characters(codec="utf-8", exclude_characters="\0")  # neither JSON nor PostgreSQL takes NUL or half a character
CURIOUS = st.sampled_from(
    "\t\n\r\v\f\x1b\x1c\x1f \x7f\x80\x85\x9f\xa0\u1680\u180e\u2000\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
)
NAMES = st.one_of(
    st.text(ALPHABET, max_size=210), st.text(CURIOUS, max_size=5), st.text("aé😀 \u3000", min_size=195, max_size=205)
)
IDS = st.one_of(
    st.text("azAZ09._:-", max_size=66), st.text(ALPHABET, max_size=5), st.sampled_from([".", "..", "...", "a\n", "\na", "é"])
)
MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def rules_url(session_runner: asyncio.Runner, postgres: SessionPostgres, migrated_template: str) -> Iterator[str]:
    """One database for all rules: nothing that is tried here stays in it."""
    name = new_name()
    yield session_runner.run(create_database(postgres.url, name, template=migrated_template))
    session_runner.run(drop_database(postgres.url, name))


@pytest.fixture
def database(rules_url: str) -> Iterator[psycopg.Connection]:
    """A transaction that is rolled back after the test."""
    with psycopg.connect(rules_url, autocommit=True) as connection, connection.transaction(force_rollback=True):
        yield connection


def accepts(database: psycopg.Connection, column: str, value: object) -> bool:
    """Whether PostgreSQL takes a product with this value."""
    product: dict[str, object] = {"id": "mug", "name": "Mug", "price_cents": 1, "stock": 1, "reorder_point": 1, column: value}
    try:
        with database.transaction(force_rollback=True):
            database.execute(
                "INSERT INTO products (id, name, price_cents, stock, reorder_point)"
                " VALUES (%(id)s, %(name)s, %(price_cents)s, %(stock)s, %(reorder_point)s)",
                product,
            )
    except (psycopg.errors.CheckViolation, psycopg.errors.NumericValueOutOfRange):
        return False
    return True


@MANY
@given(NAMES)
@example("a" * 200)
@example("a" * 201)
@example("😀" * 200)
@example("😀" * 201)
@example("\u2003\u3000")
@example("\u200b")
def test_a_name_is_good_for_both_or_neither(database: psycopg.Connection, name: str) -> None:
    """The database accepts a name if and only if the API does."""
    assert accepts(database, "name", name) == (name_fault(name) is None)


def test_every_blank_and_control_character(database: psycopg.Connection) -> None:
    """Character by character over the whole first plane: which alone are no name, and which never belong into one."""
    points = [point for point in range(1, 0x10000) if not 0xD800 <= point <= 0xDFFF]
    alone, inside = [chr(point) for point in points], [f"a{chr(point)}b" for point in points]
    for texts in (alone, inside):
        cursor = database.execute(
            r"""
            SELECT char_length(name) BETWEEN 1 AND 200 AND name COLLATE "C" !~ '[\u0001-\u001f\u007f-\u009f]'
                AND name COLLATE "C" ~ '[^\u0020\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]'
            FROM unnest(%s::text[]) WITH ORDINALITY AS given (name, place) ORDER BY place
            """,
            [texts],
        )
        said = [good for [good] in cursor]
        assert [text for text, good in zip(texts, said, strict=True) if good != (name_fault(text) is None)] == []


@MANY
@given(IDS)
@example("a" * 64)
@example("a" * 65)
@example("")
def test_id(database: psycopg.Connection, product_id: str) -> None:
    """An id is good for both or for neither."""
    assert accepts(database, "id", product_id) == is_product_id(product_id)


@pytest.mark.parametrize("column", ["price_cents", "stock", "reorder_point"])
@pytest.mark.parametrize("value", [-1, 0, 1, MAX_INTEGER - 1, MAX_INTEGER, MAX_INTEGER + 1, 2**63 - 1, 2**63])
def test_amount(database: psycopg.Connection, column: str, value: int) -> None:
    """Amounts are 0 to what every JSON reader holds exactly."""
    assert accepts(database, column, value) == (0 <= value <= MAX_INTEGER)


def test_tombstone_has_no_stock(database: psycopg.Connection) -> None:
    """What is deleted holds nothing."""
    with pytest.raises(psycopg.errors.CheckViolation, match="tombstone"):
        database.execute("INSERT INTO products (id, name, price_cents, stock, deleted_at) VALUES ('a', 'A', 1, 1, now())")


@pytest.mark.parametrize("column", ["id", "name", "price_cents", "stock", "reorder_point"])
def test_nothing_is_null(database: psycopg.Connection, column: str) -> None:
    """Every field of a product has a value."""
    with pytest.raises(psycopg.errors.NotNullViolation):
        accepts(database, column, None)
