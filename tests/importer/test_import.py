"""The whole command against a real Larder: what is stored, what is reported, how it ends."""

import argparse
import asyncio
import csv
import gzip
import io
import random
import re
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from starlette.responses import Response

from app.cli.import_ import add_parser, import_run
from app.importer.retry import RetryPolicy
from tests.importer.faulty import Larder, NoAnswer, no_fault, problem

HEADER = "id,name,price_cents,stock,reorder_point"


@dataclass(frozen=True)
class Ended:
    """What a run of the command left."""

    status: int
    said: str
    result: str


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return parser.parse_args(["import", *words])


Import = Callable[..., Awaitable[Ended]]


@pytest.fixture
def run(larder: Larder, capsys: pytest.CaptureFixture[str]) -> Import:
    """Runs the command against the test's Larder, with short waits."""

    async def run(*words: str, retries: int = 5) -> Ended:
        said = io.StringIO()
        policy = RetryPolicy(retries=retries, first_wait_ms=1, longest_wait_ms=2, longest_retry_after_ms=3)
        status = await import_run(parse(*words, "--url", larder.url), policy, Console(file=said)).run()
        return Ended(status, said.getvalue(), capsys.readouterr().out)

    return run


def write(path: Path, *lines: str, header: str = HEADER) -> str:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return str(path)


def refused_of(file: str) -> list[list[str]]:
    with Path(f"{file}.refused.csv").open(encoding="utf-8", newline="") as listed:
        rows = list(csv.reader(listed))
    assert rows[0] == ["line", "id", "reason"]
    return rows[1:]


def many(count: int) -> list[str]:
    return [f"p{number},Product {number},{number},{number % 7},1" for number in range(count)]


def stored(*lines: str) -> dict[str, list[str]]:
    """What the lines of a file leave, the first with an id counting."""
    return {cells[0]: cells for cells in (line.split(",") for line in reversed(lines))}


async def rows_of(larder: Larder) -> dict[str, list[str]]:
    return {key: [str(row[name]) for name in HEADER.split(",")] for key, row in (await larder.products()).items()}


async def test_first_run_creates_second_leaves_unchanged(tmp_path: Path, larder: Larder, run: Import) -> None:
    """Every row arrives with its values; the same file again changes nothing, though a count is an event of its own."""
    file = write(tmp_path / "in.csv", *many(1_234))
    first = await run(file, "--batch-size", "100")
    second = await run(file)
    assert first.status == second.status == 0
    assert "1,234 created, 0 updated, 0 unchanged, 0 refused" in first.result
    assert "0 created, 1,234 updated, 0 unchanged, 0 refused" in second.result
    assert await rows_of(larder) == stored(*many(1_234))
    assert {len(body["items"]) for body in larder.requests} == {100, 34, 500, 234}
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


async def test_gzip_with_a_mark_and_mapped_columns(tmp_path: Path, larder: Larder, run: Import) -> None:
    """A file as a shop exports it; what is not read is said."""
    path = tmp_path / "stock.csv.gz"
    path.write_bytes(gzip.compress("\ufeffStockCode,Colour,Description,Cents\r\n85a,red,HÄNGER,255\r\n".encode()))
    words = ["--map", "id=stockcode", "--map", "name=Description", "--map", "price_cents=Cents"]
    ended = await run(str(path), *words)
    assert ended.status == 0
    assert larder.requests == [{"items": [{"id": "85a", "name": "HÄNGER", "price_cents": 255}]}]
    assert "id from 'StockCode'" in ended.said
    assert "Not read: 'Colour'" in ended.said
    assert "1 unchanged" in (await run(str(path), *words)).result


async def test_refused_rows_are_listed_in_the_order_of_the_file(tmp_path: Path, larder: Larder, run: Import) -> None:
    """Refused here or by the service, and whichever request was answered first; the others are imported."""
    lines = [
        "a,Mug,1,1,1",  # 2
        "not legal,X,1,1,1",  # 3: by the service
        "b,Cup,12.5,1,1",  # 4: a bad number
        "a,Other,2,2,2",  # 5: a duplicate
        'c,"Two,lines",1,1,1',  # 6
        'd,"a\nb",1,1,1',  # 7 and 8: by the service
        "e,Plate,1,1,1",  # 9
        "f,Pot,1",  # 10: too few cells
    ]
    file = write(tmp_path / "in.csv", *lines)
    first_may_answer = asyncio.Event()

    async def first_answers_last(number: int, body: Any) -> None:  # noqa: ARG001  # a Fault
        if number == 1:
            await first_may_answer.wait()
        if number == 4:
            first_may_answer.set()

    larder.after = first_answers_last
    ended = await run(file, "--batch-size", "1")
    assert ended.status == 1
    assert "3 created, 0 updated, 0 unchanged, 5 refused" in ended.result
    assert f"{file}.refused.csv" in ended.result
    listed = refused_of(file)
    await run(file)
    assert refused_of(file) == listed, "in one batch, as in many"
    named = [(line, row_id) for line, row_id, _ in listed]
    assert named == [("3", "not legal"), ("4", "b"), ("5", "a"), ("7", "d"), ("10", "f")]
    assert "'12.5'" in listed[1][2]


async def test_requests_under_way_are_bounded(tmp_path: Path, larder: Larder, run: Import) -> None:
    """As many as asked for, and not one more."""
    all_in = asyncio.Event()

    async def wait_for_three(number: int, body: Any) -> None:  # noqa: ARG001  # a Fault
        if larder.most_under_way == 3:
            all_in.set()
        await all_in.wait()

    larder.before = wait_for_three
    async with asyncio.timeout(30):
        ended = await run(write(tmp_path / "in.csv", *many(60)), "--batch-size", "2", "--concurrency", "3")
    assert ended.status == 0
    assert larder.most_under_way == 3


@pytest.mark.parametrize("seed", range(3))
async def test_flaky_service_ends_in_the_same_state(tmp_path: Path, larder: Larder, run: Import, seed: int) -> None:
    """Answers lost or refused, up to four times a batch: each row is stored once, the same line of a duplicate counts."""
    chance = random.Random(seed)
    failures: Counter[str] = Counter()

    async def flaky(number: int, body: Any) -> Response | None:  # noqa: ARG001  # a Fault
        batch = body["items"][0]["id"]
        if failures[batch] == 4 or chance.random() < 0.4:
            return None
        failures[batch] += 1
        return chance.choice([NoAnswer(), problem(503, "overloaded", Retry_After="1")])

    lines = many(300)
    lines[100:100] = ["p7,late,1,1,1", "p200,early,1,1,1"]
    file = write(tmp_path / "in.csv", *lines)
    larder.before = larder.after = flaky
    ended = await run(file, "--batch-size", "7", "--concurrency", "8", retries=4)
    assert ended.status == 1
    assert "300 created, 0 updated, 0 unchanged, 2 refused" in ended.result
    assert failures.total() > 40
    assert [line for line, _, _ in refused_of(file)] == ["102", "204"]
    assert await rows_of(larder) == stored(*lines)
    assert (await larder.products())["p200"]["name"] == "early"
    assert {row["version"] for row in (await larder.products()).values()} == {1}


async def test_service_that_goes_away_stops_the_import_and_tells_what_was_kept(
    tmp_path: Path, larder: Larder, run: Import
) -> None:
    """Rows before it stay stored and listed; the same command again finishes the work."""

    async def gone(number: int, body: Any) -> Response | None:  # noqa: ARG001  # a Fault
        return problem(503, "database is away") if number > 3 else None

    larder.before = gone
    words = [write(tmp_path / "in.csv", "x y,Bad,1,1,1", *many(100)), "--batch-size", "10", "--concurrency", "1"]
    ended = await run(*words, retries=2)
    assert ended.status == 2
    for said in ("(1 of 2)", "database is away", "29 created, 0 updated, 0 unchanged, 1 refused", "Run the same command again"):
        assert said in ended.said
    assert ended.result == ""
    assert [row[1] for row in refused_of(words[0])] == ["x y"]
    assert len(larder.requests) == 3 + 3, "after the first batch that failed no other is begun"
    larder.before = no_fault
    again = await run(*words)
    assert again.status == 1
    assert "71 created, 29 updated, 0 unchanged, 1 refused" in again.result
    assert await rows_of(larder) == stored(*many(100))


async def test_damaged_file_is_imported_up_to_the_damage(tmp_path: Path, larder: Larder, run: Import) -> None:
    """What was sent is counted, and the message says where the file ends."""
    path = tmp_path / "in.csv.gz"
    path.write_bytes(gzip.compress("\n".join([HEADER, *many(20_000)]).encode())[:-1000])
    ended = await run(str(path), "--batch-size", "1000")
    assert ended.status == 2
    assert "incomplete gzip" in ended.said
    kept = len(await larder.products())
    assert f"So far {kept:,} created" in ended.said
    assert kept > 5_000


async def test_file_that_is_unusable_or_has_no_rows_sends_nothing(tmp_path: Path, larder: Larder, run: Import) -> None:
    """Status 2 and a reason, or 0 where nothing is to do; no request (the service would refuse an empty batch), no list."""
    unusable = {write(tmp_path / "a.csv", header="id,name"): "price_cents", str(tmp_path / "no.csv"): "Cannot open"}
    for name, words in unusable.items():
        ended = await run(name)
        assert ended.status == 2
        assert words in ended.said
        assert "So far" not in ended.said
    ended = await run(write(tmp_path / "b.csv"))
    assert ended.status == 0
    assert "Imported 0 rows" in ended.result
    assert larder.requests == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv"]


async def test_names_of_files_are_printed_as_they_are(tmp_path: Path, run: Import) -> None:
    """Bytes of an old encoding are shown escaped, and brackets are no markup."""
    ended = await run(write(tmp_path / "M\udcfc[bold]:smile:.csv", "a,Mug,x,1,1"))
    assert ended.status == 1
    assert "M\\udcfc[bold]:smile:.csv.refused.csv" in ended.result
    assert "[bold]:smile:.csv into" in ended.said


@pytest.mark.parametrize(
    "words",
    [
        ["--batch-size", "0"],
        ["--batch-size", "1001"],
        ["--batch-size", "ten"],
        ["--concurrency", "0"],
        ["--concurrency", "17"],
        ["--retries", "21"],
        ["--timeout-s", "0"],
        ["--map", "id"],
        ["--map", "colour=Farbe"],
        ["--map", "id="],
        ["--map", "id=a", "--map", "id=b"],
    ],
)
def test_bad_arguments(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """Status 2 with the usage, before anything is opened."""
    with pytest.raises(SystemExit) as caught:
        parse("in.csv", *words)
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_mapping_of_one_run_does_not_leak_into_the_next() -> None:
    """The default of an argument is shared by all parses of a parser."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    assert parser.parse_args(["import", "f", "--map", "id=a=b"]).mapping == {"id": "a=b"}
    assert parser.parse_args(["import", "f"]).mapping == {}


async def start(*words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "import sys; from app.cli import main; sys.exit(main())", "import", *words),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize(
    ("signals", "status"),
    [
        ([signal.SIGINT], 130),
        ([signal.SIGTERM], 130),
        ([signal.SIGHUP], 130),
        ([signal.SIGINT, signal.SIGINT], 130),
        ([signal.SIGKILL], -9),
    ],
    ids=["Ctrl-C", "SIGTERM", "SIGHUP", "Ctrl-C twice", "kill -9"],
)
async def test_interrupted_and_run_again_ends_in_the_same_state(
    tmp_path: Path, larder: Larder, signals: list[signal.Signals], status: int
) -> None:
    """One signal: what is under way is finished and counted. Two, or a kill: it is dropped. The next run does the rest."""
    file = write(tmp_path / "in.csv", "x y,Bad,1,1,1", *many(200))
    reached, gate = asyncio.Event(), asyncio.Event()

    async def hold(number: int, body: Any) -> None:  # noqa: ARG001  # a Fault
        if number == 5:
            reached.set()
        if number >= 5:
            await gate.wait()

    larder.after = hold
    async with asyncio.timeout(60):
        words = [file, "--url", larder.url, "--batch-size", "10", "--concurrency", "2", "--timeout-s", "300"]
        hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored, and a child inherits that
        process = await start(*words)
        signal.signal(signal.SIGHUP, hangup)
        assert process.stderr is not None
        await reached.wait()
        said = ""
        for number in signals:
            process.send_signal(number)
            while number != signal.SIGKILL and "Stopping" not in said:
                said += (await process.stderr.readline()).decode()
        if len(signals) == 1:
            gate.set()
        _, rest = await process.communicate()
        gate.set()
        said += rest.decode()
        assert process.returncode == status, said
        assert "Traceback" not in said
        begun = len(larder.requests)
        assert begun <= 6, "nothing new is begun"
        if status == 130:
            counted = re.search(r"So far (\d+) created, 0 updated, 0 unchanged, [01] refused", said)
            assert counted, said
            if len(signals) == 1:
                assert int(counted[1]) == begun * 10 - 1
                assert [row[1] for row in refused_of(file)] == ["x y"]
            else:
                assert int(counted[1]) < 40, "of the batches that were held none is counted"
        again = await start(*words)
        output, said_again = await again.communicate()
    assert again.returncode == 1, said_again.decode()
    assert b"1 refused" in output
    assert await rows_of(larder) == stored(*many(200))
