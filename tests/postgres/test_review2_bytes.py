import pytest
from app.postgres.database import Database
from tests.limits import open_database

@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_bytes_in_a_list_arrive_as_they_are(database_url: str, kind) -> None:
    database = open_database(database_url)
    sent = [bytes(range(256)), b"it's", b"\\x41", b""]
    [(found,)] = await database.loads.rows("SELECT %(l)s::bytea[]", {"l": [kind(one) for one in sent]})
    await database.close()
    assert found == sent
