"""The whole command against a real server: what is booked, what is reported, how it ends."""

import argparse
import asyncio
import gzip
import io
import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import Response
from rich.console import Console

from app.cli.replay import add_parser
from app.importer.retry import RetryPolicy
from app.replay.command import ReplayCommand, ReplayOptions
from app.replay.ids import ID_MAPS
from app.replay.report import FewNotices
from benchmarks import verify_replay
from tests.importer.standin import NoAnswer, closed_port
from tests.replay.sales import write
from tests.replay.standin import Body, Shop, no_fault, open_shop, refusal

ROWS = [
    ("1", "a", 5),
    ("1", "b c", 2),
    ("1", "a", 1),
    ("2", "b c", 4),
    ("C3", "a", -2),
    ("4", "a", 0),
    ("5", "a", 100),
    ("6", "b c", -1),
    ("7", "gone", 1),
]
STOCKS = {"a": 50, "b_c": 50}


@dataclass(frozen=True)
class Ended:
    """What a run of the command left."""

    status: int
    said: str
    result: str

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads(self.result))


async def run(
    capsys: pytest.CaptureFixture[str],
    file: Path,
    url: str,
    *,
    terminal: bool = False,
    retries: int = 5,
    **options: Any,
) -> Ended:
    said = io.StringIO()
    settings: dict[str, Any] = {
        "file": file,
        "url": url,
        "refused": Path(f"{file}.refused.jsonl"),
        "mapping": {},
        "id_map": ID_MAPS["sanitize"],
        "clients": 4,
        "repeat": 1,
        "rate_per_s": None,
        "timeout_s": 20,
        "run_id": "run",
        "json": True,
    }
    policy = RetryPolicy(retries=retries, first_wait_ms=1, longest_wait_ms=2, longest_retry_after_ms=3)
    console = Console(file=said, force_terminal=terminal)
    status = await ReplayCommand(ReplayOptions(**settings | options), console, policy).run()
    return Ended(status, said.getvalue(), capsys.readouterr().out)


def refused_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(f"{file}.refused.jsonl").read_text().splitlines()]


async def verified(folder: Path, file: Path, url: str, *words: str) -> int:
    catalogue = folder / "catalogue.csv"
    catalogue.write_text("\n".join(["id,stock", *(f"{product_id},{stock}" for product_id, stock in STOCKS.items()), ""]))
    return await verify_replay.verify(verify_replay.parse([str(file), str(catalogue), "--url", url, "--ledger", *words]))


async def test_sales_are_taken_and_refusals_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every invoice all or none; the summary adds up; what was refused is there with its problem."""
    file, shop = write(tmp_path, *ROWS), Shop(STOCKS)
    async with open_shop(shop) as url:
        ended = await run(capsys, file, url, clients=1)
    assert ended.status == 1
    assert shop.stocks == {"a": 46, "b_c": 45}
    assert shop.keys == [f"run:1:{invoice}:1" for invoice in ("1", "2", "C3", "5", "6", "7")]
    assert [body["reason"] for body in shop.requests] == ["sale", "sale", "return", "sale", "return", "sale"]
    counts = ("requests", "accepted", "refused", "unknown", "replays", "retries", "lines", "taken_units", "returned_units")
    assert [ended.summary[name] for name in counts] == [6, 4, 2, 0, 0, 0, 6, 12, 3]
    assert [(entry["invoice"], entry["status"], entry["outcome"]) for entry in refused_of(file)] == [
        ("5", 409, "refused"),
        ("7", 404, "refused"),
    ]
    assert refused_of(file)[0]["problem"]["shortages"][0]["available"] == 46
    assert refused_of(file)[1]["problem"]["missing"] == ["gone"]
    assert "9 rows as 6 requests" in ended.said
    assert "quantity is 0: 1." in ended.said
    assert f"{file}.refused.jsonl" in ended.said


async def test_same_run_again_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run is named by its id: with the same one every answer is a replay, with another the sales are new."""
    file, shop = write(tmp_path, *ROWS[:4]), Shop(STOCKS)
    async with open_shop(shop) as url:
        first = await run(capsys, file, url)
        once = dict(shop.stocks)
        second = await run(capsys, file, url)
        assert shop.stocks == once
        await run(capsys, file, url, run_id="other")
    assert first.status == second.status == 0
    assert (first.summary["replays"], second.summary["replays"]) == (0, 2)
    assert shop.stocks == {"a": 50 - 2 * 6, "b_c": 50 - 2 * 6}
    assert [path.name for path in tmp_path.iterdir()] == ["sales.csv"], "no refusals, no list"


async def test_repetitions_are_sales_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each has its keys, and the file is read again."""
    file, shop = write(tmp_path, *ROWS[:4]), Shop(STOCKS)
    async with open_shop(shop) as url:
        ended = await run(capsys, file, url, repeat=3)
        assert await verified(tmp_path, file, url, "--repeat", "3") == 0
    assert ended.summary["requests"] == 6
    assert len(set(shop.keys)) == 6
    assert shop.stocks == {"a": 50 - 3 * 6, "b_c": 50 - 3 * 6}


async def test_gzip_mapped_columns_and_split_invoices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of another shop, an invoice in two places: two parts, and it is said."""
    path = tmp_path / "bons.csv.gz"
    path.write_bytes(gzip.compress(b"Bon,Artikel,Menge\n1,a,1\n2,a,1\n1,a,1\n"))
    shop = Shop(STOCKS)
    async with open_shop(shop) as url:
        ended = await run(capsys, path, url, mapping={"invoice": "Bon", "product": "Artikel", "quantity": "Menge"})
    assert ended.status == 0
    assert sorted(shop.keys) == ["run:1:1:1", "run:1:1:2", "run:1:2:1"]
    assert "further parts of an invoice: 1." in ended.said


async def test_clients_at_once_are_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As many as asked for, and not one more."""
    all_in = asyncio.Event()
    shop = Shop({"a": 100})

    async def wait_for_five(number: int, body: Body) -> None:  # noqa: ARG001  # a Fault
        if shop.most_under_way == 5:
            all_in.set()
        await all_in.wait()

    shop.before = wait_for_five
    async with open_shop(shop) as url, asyncio.timeout(30):
        ended = await run(capsys, write(tmp_path, *((str(n), "a", 1) for n in range(40))), url, clients=5)
    assert ended.status == 0
    assert shop.most_under_way == 5


@pytest.mark.parametrize("seed", range(4))
async def test_flaky_service_sells_exactly_once(tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int) -> None:
    """Answers lost before and after booking: to the unit what a calm service ends with, by the verifier's own sums too."""
    chance = random.Random(seed)
    failures: Counter[str] = Counter()

    async def flaky(number: int, body: Body) -> Response | None:  # noqa: ARG001  # a Fault
        if failures[body["reference"]] >= 4 or chance.random() < 0.4:
            return None
        failures[body["reference"]] += 1
        answers = [NoAnswer(), refusal("outcome-unknown", 503), refusal("request-in-progress", 409)]
        return chance.choice(answers)

    rows = [(str(number // 3), chance.choice(["a", "b c"]), chance.choice([-2, 0, 1, 2, 3, 60])) for number in range(150)]
    file, shop = write(tmp_path, *rows), Shop(STOCKS, before=flaky, after=flaky)
    async with open_shop(shop) as url:
        ended = await run(capsys, file, url, clients=8, retries=4)
        assert await verified(tmp_path, file, url) == 0, capsys.readouterr().out
    assert ended.status == 1
    assert ended.summary["retries"] == failures.total() > 40
    assert ended.summary["replays"] > 5
    assert min(shop.stocks.values()) >= 0


async def test_verifier_finds_a_unit_too_few_and_a_line_too_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A check that cannot fail is none."""
    file, shop = write(tmp_path, *ROWS), Shop(STOCKS)
    async with open_shop(shop) as url:
        await run(capsys, file, url, clients=1)
        # A product that the catalogue lacks is missing from the service, and rightly so: its invoice was refused.
        file.write_text(file.read_text().replace("\n7,gone,X,1,d,1.0", ""))
        listed = Path(f"{file}.refused.jsonl")
        listed.write_text("".join(line for line in listed.read_text().splitlines(keepends=True) if '"5"' in line))
        assert await verified(tmp_path, file, url) == 0, capsys.readouterr().out
        shop.stocks["a"] -= 1
        assert await verified(tmp_path, file, url) == 1
        shop.stocks["a"] += 1
        double = next(movement for movement in shop.ledger if movement["reference"] == "2")
        shop.ledger.append(double)
        assert await verified(tmp_path, file, url) == 1
        assert "invoice 2, delta -4: booked 1 times too often" in capsys.readouterr().out
        shop.ledger.pop()
        listed.write_text(listed.read_text().replace('"available": 46', '"available": 100'))
        assert await verified(tmp_path, file, url) == 1
        said = capsys.readouterr().out
        assert "the ledger has 46" in said
        assert "100 were available" in said
        listed.write_text(listed.read_text().replace('"refused"', '"unknown"'))
        assert await verified(tmp_path, file, url) == 2


async def test_latency_counts_from_the_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One request stalls: those that were due meanwhile count their waiting. Without a rate they do not: they were not due."""
    stall_s = 0.4

    async def stall(number: int, body: Body) -> None:  # noqa: ARG001  # a Fault
        if number == 1:
            await asyncio.sleep(stall_s)

    file = write(tmp_path, *((str(number), "a", 1) for number in range(20)))
    async with open_shop(Shop({"a": 100}, before=stall)) as url:
        paced = await run(capsys, file, url, clients=1, rate_per_s=1000.0)
    async with open_shop(Shop({"a": 100}, before=stall)) as url:
        unpaced = await run(capsys, file, url, clients=1)
    assert paced.summary["latency_from"] == "schedule"
    assert paced.summary["p50_ms"] > (stall_s - 0.02) * 1000
    assert unpaced.summary["p50_ms"] < paced.summary["p50_ms"] / 2
    assert unpaced.summary["max_ms"] >= stall_s * 1000


async def test_rate_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twenty at fifty a second take at least the time up to the last."""
    file = write(tmp_path, *((str(number), "a", 1) for number in range(20)))
    async with open_shop(Shop({"a": 100})) as url:
        ended = await run(capsys, file, url, rate_per_s=50.0)
    assert ended.summary["elapsed_s"] >= 19 / 50


async def test_bad_rows_stop_it_before_anything_is_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A replay without them would not add up; the first of them are told."""
    file, shop = write(tmp_path, *ROWS[:3]), Shop(STOCKS)
    file.write_text(file.read_text() + "8,a,X,1.5,d,1\n" * 12)
    async with open_shop(shop) as url:
        ended = await run(capsys, file, url)
    assert ended.status == 2
    assert "12 rows are no sale" in ended.said
    assert "line 5: quantity: '1.5'" in ended.said
    assert "and 2 more" in ended.said
    assert shop.requests == []
    assert ended.result == ""


async def test_service_that_goes_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, the cause and not its consequences; what is unknown is listed, and the same run id mends it."""

    async def gone(number: int, body: Body) -> Response | None:  # noqa: ARG001  # a Fault
        return refusal("database-unavailable", 503, detail="away") if number > 3 else None

    file, shop = write(tmp_path, *((str(number), "a", 1) for number in range(30))), Shop({"a": 100}, after=gone)
    async with open_shop(shop) as url:
        ended = await run(capsys, file, url, clients=2, retries=1)
        assert ended.status == 2
        assert "in 2 tries. The last: 503 Service Unavailable: away" in ended.said
        assert "--run-id run" in ended.said
        assert ended.summary["accepted"] == 3
        assert ended.summary["unknown"] == 2
        assert [entry["outcome"] for entry in refused_of(file)] == ["unknown", "unknown"]
        shop.after = no_fault
        again = await run(capsys, file, url)
    assert again.status == 0
    assert again.summary["replays"] == 5
    assert shop.stocks == {"a": 70}


async def test_nobody_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tried again, then status 2."""
    with closed_port() as url:
        ended = await run(capsys, write(tmp_path, *ROWS[:1]), url, retries=1)
    assert ended.status == 2
    assert "in 2 tries" in ended.said


async def test_list_of_refusals_that_is_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is left alone, and nothing is sent; an earlier list is replaced, and removed when nothing is refused."""
    file, shop = write(tmp_path, *ROWS[:1]), Shop(STOCKS)
    listed = Path(f"{file}.refused.jsonl")
    async with open_shop(shop) as url:
        listed.write_text("my notes")
        assert (await run(capsys, file, url)).status == 2
        assert listed.read_text() == "my notes"
        assert (await run(capsys, file, url, refused=file)).status == 2
        assert (await run(capsys, file, url, refused=tmp_path)).status == 2
        assert shop.requests == []
        listed.unlink()
        shop.stocks["a"] = 0
        assert (await run(capsys, file, url)).status == 1
        shop.stocks["a"] = 50
        assert (await run(capsys, file, url, run_id="next")).status == 0
    assert not listed.exists()


async def test_progress_on_a_terminal_and_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bar for people, a line for each tenth for logs; the closing words for both."""
    file = write(tmp_path, *((str(number), "a", 1) for number in range(20)))
    async with open_shop(Shop({"a": 100})) as url:
        plain = await run(capsys, file, url, json=False)
        bar = await run(capsys, file, url, terminal=True, run_id="bar")
    assert plain.said.count("% replayed: ") == 10
    assert "100 % replayed: 20 accepted" in plain.said
    assert "20/20" in bar.said
    for words in ("requests  20 in", "20 units taken, 0 returned", "p50 ", "p99 ", "from the first try", "run id    run"):
        assert words in plain.result


def test_notices_are_few() -> None:
    """An outage strikes every client at once: one message a second, and the number of the others."""
    now_s, said = [0.0], list[str]()
    notice = FewNotices(said.append, lambda: now_s[0])
    for _ in range(5):
        notice("away")
    now_s[0] = 1.5
    notice("away again")
    assert said == ["away", "away again (and 4 more messages since the last)"]


@pytest.mark.parametrize(
    "words",
    [
        ["--clients", "0"],
        ["--clients", "513"],
        ["--repeat", "0"],
        ["--retries", "x"],
        ["--rate", "0"],
        ["--rate", "nan"],
        ["--rate", "inf"],
        ["--run-id", ""],
        ["--run-id", "a:b"],
        ["--run-id", "a" * 65],
        ["--id-map", "guess"],
        ["--map", "price=x"],
    ],
)
def test_bad_arguments(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """Status 2 with the usage, before anything is opened."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["replay", "in.csv", *words])
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err
