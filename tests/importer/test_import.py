"""The whole command against a real server: what is stored, what is reported, how it ends."""

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
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import Response
from rich.console import Console

from app.importer.command import ImportCommand, add_parser
from app.importer.retry import RetryPolicy
from tests.importer.standin import Item, NoAnswer, StandIn, closed_port, problem, serving

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


async def run(capsys: pytest.CaptureFixture[str], *words: str, retries: int = 5) -> Ended:
    said = io.StringIO()
    policy = RetryPolicy(retries=retries, first_wait_ms=1, longest_wait_ms=2, longest_retry_after_ms=3)
    status = await ImportCommand(parse(*words), Console(file=said), policy).run()
    return Ended(status, said.getvalue(), capsys.readouterr().out)


def write(path: Path, *lines: str, header: str = HEADER) -> str:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return str(path)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def refused_of(file: str) -> list[list[str]]:
    with Path(f"{file}.refused.csv").open(encoding="utf-8", newline="") as listed:
        rows = list(csv.reader(listed))
    assert rows[0] == ["line", "id", "reason"]
    return rows[1:]


def many(count: int) -> list[str]:
    return [f"p{number},Product {number},{number},{number % 7},1" for number in range(count)]


async def test_first_run_creates_second_leaves_unchanged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every row arrives with its values; the same file again changes nothing."""
    file = write(tmp_path / "in.csv", *many(1_234))
    standin = StandIn()
    async with serving(standin) as url:
        first = await run(capsys, file, "--url", url, "--batch-size", "100")
        once = standin.state()
        second = await run(capsys, file, "--url", url)
    assert first.status == second.status == 0
    assert "1,234 created, 0 updated, 0 unchanged, 0 refused" in first.result
    assert "0 created, 0 updated, 1,234 unchanged, 0 refused" in second.result
    assert once["p8"] == {"id": "p8", "name": "Product 8", "price_cents": 8, "stock": 1, "reorder_point": 1}
    assert len(once) == 1_234
    assert standin.state() == once
    assert {len(items) for items in standin.requests} == {100, 34, 500, 234}
    assert names_in(tmp_path) == ["in.csv"]


async def test_gzip_with_a_mark_and_mapped_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file as a shop exports it; what is not read is said."""
    path = tmp_path / "stock.csv.gz"
    path.write_bytes(gzip.compress("\ufeffStockCode,Colour,Description,Cents\r\n85a,red,HÄNGER,255\r\n".encode()))
    standin = StandIn()
    async with serving(standin) as url:
        words = ["--map", "id=stockcode", "--map", "name=Description", "--map", "price_cents=Cents"]
        ended = await run(capsys, str(path), "--url", url, *words)
    assert ended.status == 0
    assert standin.requests == [[{"id": "85a", "name": "HÄNGER", "price_cents": 255}]]
    assert "id from 'StockCode'" in ended.said
    assert "Not read: 'Colour'" in ended.said


async def test_stock_left_out_is_unchanged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A price list does not touch what was counted."""
    standin = StandIn()
    async with serving(standin) as url:
        await run(capsys, write(tmp_path / "a.csv", "a,Mug,1,40,0", "b,Cup,1,30,0"), "--url", url)
        ended = await run(capsys, write(tmp_path / "b.csv", "a,Mug,2,,0", "b,Cup,2,5,0"), "--url", url)
    assert "2 updated" in ended.result
    assert {key: item["stock"] for key, item in standin.state().items()} == {"a": 40, "b": 5}


async def test_refused_rows_are_listed_in_the_order_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused here or by the service, and whichever request was answered first; the others are imported."""
    lines = [
        "a,Mug,1,1,1",  # 2
        "not legal,X,1,1,1",  # 3: by the service
        "b,Cup,12.5,1,1",  # 4: a bad number
        "a,Other,2,2,2",  # 5: a duplicate
        'c,"Two\nlines",1,1,1',  # 6 and 7
        "d,   ,1,1,1",  # 8: by the service
        "e,Plate,1,1,1",  # 9
        "f,Pot,1",  # 10: too few cells
    ]
    file = write(tmp_path / "in.csv", *lines)
    first_may_answer = asyncio.Event()

    async def first_answers_last(number: int, items: list[Item]) -> None:  # noqa: ARG001  # a Fault
        if number == 1:
            await first_may_answer.wait()
        if number == 4:
            first_may_answer.set()

    standin = StandIn(after=first_answers_last)
    async with serving(standin) as url:
        ended = await run(capsys, file, "--url", url, "--batch-size", "1")
    assert ended.status == 1
    assert "3 created, 0 updated, 0 unchanged, 5 refused" in ended.result
    assert f"{file}.refused.csv" in ended.result
    listed = refused_of(file)
    async with serving(StandIn()) as url:
        await run(capsys, file, "--url", url)
    assert refused_of(file) == listed, "in one batch, as in many"
    assert [(line, row_id) for line, row_id, _ in listed] == [
        ("3", "not legal"),
        ("4", "b"),
        ("5", "a"),
        ("8", "d"),
        ("10", "f"),
    ]
    assert "illegal id" in listed[0][2]
    assert "'12.5'" in listed[1][2]
    assert "line 2" in listed[2][2]
    assert standin.state()["a"]["name"] == "Mug"
    assert standin.state()["c"]["name"] == "Two\nlines"


async def test_requests_at_once_are_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As many as asked for, and not one more; the file is read ahead by a bounded window only."""
    all_in = asyncio.Event()
    standin = StandIn()

    async def wait_for_three(number: int, items: list[Item]) -> None:  # noqa: ARG001  # a Fault
        if standin.under_way == 3:
            all_in.set()
        await all_in.wait()

    standin.before = wait_for_three
    async with serving(standin) as url:
        ended = await run(
            capsys, write(tmp_path / "in.csv", *many(60)), "--url", url, "--batch-size", "2", "--concurrency", "3"
        )
    assert ended.status == 0
    assert standin.most_under_way == 3


@pytest.mark.parametrize("seed", range(5))
async def test_flaky_service_ends_in_the_same_state(tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int) -> None:
    """Answers lost or refused, up to four times for each batch: no row is lost, the same line of a duplicate counts."""
    chance = random.Random(seed)
    failures: Counter[str] = Counter()

    async def flaky(number: int, items: list[Item]) -> Response | None:  # noqa: ARG001  # a Fault
        batch = items[0]["id"]
        if failures[batch] == 4 or chance.random() < 0.4:
            return None
        failures[batch] += 1
        return chance.choice([NoAnswer(), problem(503, "overloaded", Retry_After="1")])

    lines = many(300)
    lines[100:100] = ["p7,late,1,1,1", "p200,early,1,1,1"]
    file = write(tmp_path / "in.csv", *lines)
    calm, stormy = StandIn(), StandIn(before=flaky, after=flaky)
    async with serving(calm) as url:
        await run(capsys, file, "--url", url, "--concurrency", "1")
    listed = refused_of(file)
    async with serving(stormy) as url:
        ended = await run(capsys, file, "--url", url, "--batch-size", "7", "--concurrency", "8", retries=4)
    assert ended.status == 1
    assert failures.total() > 40
    assert refused_of(file) == listed
    assert [line for line, _, _ in listed] == ["102", "204"]
    assert stormy.state() == calm.state()
    assert stormy.state()["p200"]["name"] == "early"


async def test_service_that_goes_away_stops_the_import_and_tells_what_was_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows before it stay stored and listed; the same command again finishes the work."""

    async def gone(number: int, items: list[Item]) -> Response | None:  # noqa: ARG001  # a Fault
        return problem(503, "database is away") if number > 3 else None

    standin = StandIn(before=gone)
    file = write(tmp_path / "in.csv", "x y,Bad,1,1,1", *many(100))
    async with serving(standin) as url:
        words = [file, "--url", url, "--batch-size", "10", "--concurrency", "1"]
        ended = await run(capsys, *words, retries=2)
        assert ended.status == 2
        assert "database is away" in ended.said
        assert "29 created, 0 updated, 0 unchanged, 1 refused" in ended.said
        assert "Run the same command again" in ended.said
        assert ended.result == ""
        assert [row[1] for row in refused_of(file)] == ["x y"]
        assert len(standin.requests) == 3 + 3, "after the first batch that failed no other is begun"
        standin.before = StandIn().before
        again = await run(capsys, *words)
    assert again.status == 1
    assert "71 created, 0 updated, 29 unchanged, 1 refused" in again.result


async def test_damaged_file_is_imported_up_to_the_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was sent is counted, and the message says where the file ends."""
    path = tmp_path / "in.csv.gz"
    text = "\n".join([HEADER, *many(50_000)])
    path.write_bytes(gzip.compress(text.encode())[:-1000])
    standin = StandIn()
    async with serving(standin) as url:
        ended = await run(capsys, str(path), "--url", url, "--batch-size", "1000")
    assert ended.status == 2
    assert "incomplete gzip" in ended.said
    assert f"So far {len(standin.products):,} created" in ended.said
    assert len(standin.products) > 10_000


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("in.csv", b"id,name\n", "price_cents"),
        ("in.csv", b"", "empty"),
        ("other.csv", b"", "Cannot open"),
    ],
)
async def test_unusable_file_sends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, words: str
) -> None:
    """Status 2, a reason, no request, no list."""
    (tmp_path / name).write_bytes(content)
    standin = StandIn()
    async with serving(standin) as url:
        ended = await run(capsys, str(tmp_path / "in.csv"), "--url", url)
    assert ended.status == 2
    assert words in ended.said
    assert "So far" not in ended.said
    assert standin.requests == []
    assert not (tmp_path / "in.csv.refused.csv").exists()


async def test_file_without_rows_is_done_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to do is done, and no empty batch is sent (the service would refuse it)."""
    standin = StandIn()
    async with serving(standin) as url:
        ended = await run(capsys, write(tmp_path / "in.csv"), "--url", url)
    assert ended.status == 0
    assert standin.requests == []
    assert "Imported 0 rows" in ended.result


async def test_file_name_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Old file names hold bytes of old encodings; what is printed shows them escaped."""
    file = write(tmp_path / "M\udcfcgge.csv", "a,Mug,x,1,1")
    async with serving(StandIn()) as url:
        ended = await run(capsys, file, "--url", url)
    assert ended.status == 1
    assert "M\\udcfcgge.csv.refused.csv" in ended.result


async def test_nobody_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tried again in sight of the user, then status 2."""
    with closed_port() as url:
        ended = await run(capsys, write(tmp_path / "in.csv", *many(1)), "--url", url, retries=1)
    assert ended.status == 2
    assert "(1 of 1)" in ended.said


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


_PROGRAM = "import sys; from app.cli import main; sys.exit(main())"


async def start(*words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _PROGRAM,
        "import",
        *words,
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize(
    ("signals", "status"),
    [([signal.SIGINT], 130), ([signal.SIGTERM], 130), ([signal.SIGINT, signal.SIGINT], 130), ([signal.SIGKILL], -9)],
    ids=["Ctrl-C", "SIGTERM", "Ctrl-C twice", "kill -9"],
)
async def test_interrupted_and_run_again_ends_in_the_same_state(
    tmp_path: Path, signals: list[signal.Signals], status: int
) -> None:
    """One signal: what is under way is finished and counted. Two, or a kill: it is dropped. The next run does the rest."""
    file = write(tmp_path / "in.csv", "x y,Bad,1,1,1", *many(200))
    reached, gate, said_stopping = asyncio.Event(), asyncio.Event(), "Stopping"

    async def hold(number: int, items: list[Item]) -> None:  # noqa: ARG001  # a Fault
        if number == 5:
            reached.set()
        if number >= 5:
            await gate.wait()

    standin = StandIn(after=hold)
    async with serving(standin) as url, asyncio.timeout(60):
        words = [file, "--url", url, "--batch-size", "10", "--concurrency", "2", "--timeout-s", "300"]
        process = await start(*words)
        assert process.stderr is not None
        await reached.wait()
        said = ""
        for number in signals:
            process.send_signal(number)
            while number != signal.SIGKILL and said_stopping not in said:
                said += (await process.stderr.readline()).decode()
        if len(signals) == 1:
            gate.set()
        _, rest = await process.communicate()
        gate.set()
        said += rest.decode()
        assert process.returncode == status, said
        assert "Traceback" not in said
        begun = len(standin.requests)
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
    assert len(standin.state()) == 200
    whole = StandIn()
    async with serving(whole) as url:
        assert await (await start(file, "--url", url)).wait() == 1
    assert standin.state() == whole.state()
