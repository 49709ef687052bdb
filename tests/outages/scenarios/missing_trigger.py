"""A trigger of products is missing, as after a partial restore: every statement fails, and connections are kept.

Reads cannot be served then. But a failure must not cost a new connection each time, and everything must work again once the
trigger is back.
"""

import asyncio
import time
from collections import Counter
from pathlib import Path

from tests.harness.client import NoAnswerError
from tests.harness.cluster import PROBE, Instance, larder_as_it_comes, start_cluster
from tests.outages.scenarios.report import Report

_CLIENTS = 10
_READS = 900
_CONNECTIONS = 30
"""Three times what a process may have at once."""
_HEALS_S = 3.5
_DROP = "DROP TRIGGER zz_larder_change ON products"
_CREATE = """
    CREATE TRIGGER zz_larder_change BEFORE INSERT OR UPDATE OR DELETE ON products
        FOR EACH ROW EXECUTE FUNCTION larder_products_change();
    ALTER TABLE products ENABLE ALWAYS TRIGGER zz_larder_change
"""


async def run(directory: Path, seconds: float, report: Report) -> None:
    """Run the scenario."""
    async with start_cluster(directory, instances=1, program=larder_as_it_comes) as cluster:
        await cluster.until_trusted()
        [instance] = cluster.instances
        async with await cluster.session() as session:
            await session.execute(_DROP)
            while await instance.hits(PROBE):
                await asyncio.sleep(0.02)
            opened = instance.postgres.accepted
            answers: Counter[str] = Counter()
            began = time.monotonic()
            await asyncio.gather(*(_read(instance, seconds, answers) for _ in range(_CLIENTS)))
            report.tell("seconds of the reads", time.monotonic() - began)
            report.at_most("connections that they opened to PostgreSQL", instance.postgres.accepted - opened, _CONNECTIONS)
            for answer, number in sorted(answers.items()):
                kept = answer.startswith("503 ")
                report.demand(f"answers: {answer}", number, "" if kept else "503", kept=kept)
            await session.execute(_CREATE)
            back = time.monotonic()
            while not await instance.hits(PROBE) and time.monotonic() < back + 3 * _HEALS_S:
                await asyncio.sleep(0.02)
            report.at_most("seconds until hits, once the trigger is back", time.monotonic() - back, _HEALS_S)


async def _read(instance: Instance, seconds: float, answers: Counter[str]) -> None:
    pause_s = seconds / (_READS / _CLIENTS)
    for _ in range(_READS // _CLIENTS):
        due = time.monotonic() + pause_s
        try:
            answer = await instance.endpoint.request("GET", f"/products/{PROBE}")
        except NoAnswerError as error:
            answers[f"no answer: {error}"] += 1
        else:
            slug = next((s for s in ("database-unavailable", "overloaded") if s.encode() in answer.body), "")
            answers[f"{answer.status} {slug}"] += 1
        await asyncio.sleep(max(0.0, due - time.monotonic()))
