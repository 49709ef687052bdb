"""FastAPI and async SQLAlchemy without any cache."""

from benchmarks.peers import catalogue


async def _nothing() -> None:
    """There is nothing to close."""


app = catalogue.service(catalogue.load, catalogue.count, _nothing, reprice=catalogue.reprice, adjust=catalogue.adjust)
