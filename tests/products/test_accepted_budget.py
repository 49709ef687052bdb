"""What a direct write costs more where writes are accepted, while none waits."""

import pytest

from app.products.accepted import AcceptedWrite
from app.products.commands import Create, set_stock
from app.products.idempotency import NO_ORIGIN, WriteRequest
from app.products.product import Draft
from app.products.transactions import ProductTransactions
from tests.limits import open_database


async def decode(_write: AcceptedWrite) -> WriteRequest:
    raise AssertionError("nothing waits")


@pytest.mark.guarantee("G7")
async def test_direct_write_has_one_more_statement(database_url: str) -> None:
    """One where writes are accepted, and none where they are not."""
    database = open_database(database_url)
    counts: list[int] = []
    for transactions in (ProductTransactions(database), ProductTransactions(database, decode=decode)):
        name, before = f"p{len(counts)}", database.statements
        for command in (Create(Draft(name, "Mug", 1, 1)), set_stock(name, 2)):
            await transactions.commit([WriteRequest(command, NO_ORIGIN)])
        counts.append(database.statements - before)
    await database.close()
    assert counts[1] - counts[0] == 2
