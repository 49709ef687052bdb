"""An audit that finds the database in another epoch."""

import psycopg

from app.cache.ports import Absent, Value
from app.cache.write_through import Status
from app.products.commands import Create
from tests.cache.rig import Process, draft

KEY = "mug"


async def test_truncated_table_is_not_vouched_for(process: Process, database_url: str) -> None:
    """G4: the first cycle in a new epoch deletes the old fence, even while it may not set a new one."""
    await process.write(Create(draft(KEY)))
    hit = await process.cache.read(KEY)
    assert (type(hit.state), hit.status) == (Value, Status.HIT)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as hand:
        await hand.execute("TRUNCATE products")
    cycle = await process.audit.cycle()
    assert cycle is not None
    assert not cycle.trusted
    gone = await process.cache.read(KEY)
    assert (type(gone.state), gone.status) == (Absent, Status.BYPASS)
    await process.cache.drop(KEY)  # or the inspection after the test finds it
