"""Statements as PostgreSQL shows them get the names that they have in the code."""

import pytest

from benchmarks.steady.statements import NAMED, Look, name_of

SHOWN = {
    "WITH free AS MATERIALIZED (\n"
    "    SELECT id, name, price_cents, stock, reorder_point, version, created_at, updated_at, deleted_at": "LOCK",
    "LOCK TABLE products IN ACCESS SHARE MODE": "LOCK TABLE",
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY": "BEGIN",
    "FETCH 1000 FROM changes": "FETCH",
    "SELECT pg_snapshot_xmin(pg_current_snapshot())::text, larder_epoch('products', 2)": "SNAPSHOT",
    "WITH history AS MATERIALIZED (\n"
    "    SELECT larder_epoch($6, $1::integer) AS epoch, clock_timestamp() AS moment,": "ANNOUNCE",
    "SELECT coalesce(sum(delta), $28), count(*) FROM stock_movements WHERE product_id = NEW.id AND version > old_version": (
        "SELECT coalesce(sum(delta), ?), count(*) FROM stock_movement"
    ),
}


@pytest.mark.parametrize(("text", "name"), SHOWN.items())
def test_shown_statements_have_their_names(text: str, name: str) -> None:
    """Whatever was replaced by the driver or by pg_stat_statements; what is not Larder's shows its beginning."""
    assert name_of(text) == name


def test_every_statement_has_its_own_name() -> None:
    """No named statement is taken for another one."""
    assert {name: name_of(text) for name, text in NAMED.items()} == {name: name for name in NAMED}


def test_transactions_are_explained_by_their_statements() -> None:
    """A write locks once and reads back once; an audit is three transactions; what is left over are loads of readers."""
    before = Look(100)
    after = Look(113)
    after.calls.update({"LOCK": 4, "LOAD": 7, "ANNOUNCE": 2, "SNAPSHOT": 2, "COMPLETE": 2})
    done = after.since(before)
    assert (done.transactions, done.writes, done.audits, done.loads, done.explained) == (13, 4, 6, 3, 13)
