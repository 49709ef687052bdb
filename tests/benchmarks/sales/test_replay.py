"""The replay against a real Larder: what is booked, what is reported, how it ends; and the verification that can fail."""

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, RedirectResponse, Response

from app.importer.retry import RetryPolicy
from benchmarks.sales import verify
from benchmarks.sales.invoices import by_invoice
from benchmarks.sales.replay import Replay
from benchmarks.sales.sales import read_sales
from tests.importer.faulty import Faulty, Larder, NoAnswer, fails, no_fault, problem, serving

HEADER = "invoice,stock_code,description,quantity,invoice_date,unit_price"
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


def write(folder: Path, *rows: tuple[str, str, int]) -> Path:
    path = folder / "sales.csv"
    lines = [f"{invoice},{code},X,{quantity},d,1.0" for invoice, code, quantity in rows]
    path.write_text("\n".join([HEADER, *lines, ""]), encoding="utf-8")
    return path


def ones(count: int) -> list[tuple[str, str, int]]:
    return [(str(number), "a", 1) for number in range(count)]


@pytest.fixture
async def shop(larder: Larder) -> Larder:
    """A Larder with two products."""
    async with httpx.AsyncClient(base_url=larder.url) as client:
        items = [{"id": key, "name": key, "price_cents": 1, "stock": stock} for key, stock in STOCKS.items()]
        await client.post("/products/batch", json={"items": items}, headers={"Idempotency-Key": "opening"})
    larder.requests.clear()
    larder.keys.clear()
    return larder


async def stocks(shop: Larder) -> dict[str, int]:
    return {key: row["stock"] for key, row in (await shop.products()).items()}


async def replay(file: Path, url: str, **options: Any) -> tuple[int, Replay]:
    """Run it with short waits; the exit status, and the replay with its counts."""
    retry = RetryPolicy(options.pop("retries", 5), first_wait_ms=1, longest_wait_ms=2, longest_retry_after_ms=3)
    invoices = list(by_invoice(read_sales(file)))
    given: dict[str, Any] = {"run_id": "run", "clients": 4, "json": True, **options}
    run = Replay(invoices, url, given.pop("refused", Path(f"{file}.refused.jsonl")), given.pop("run_id"), retry, **given)
    return await run.run(), run


def refused_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(f"{file}.refused.jsonl").read_text().splitlines()]


async def verified(file: Path, url: str, *, repeat: int = 1) -> int:
    catalogue = file.with_name("catalogue.csv")
    catalogue.write_text("\n".join(["id,stock", *(f"{key},{stock}" for key, stock in STOCKS.items()), ""]))
    return await verify.verify(file, catalogue, Path(f"{file}.refused.jsonl"), url, repeat=repeat, ledger=True)


async def test_sales_are_taken_and_refusals_listed(tmp_path: Path, shop: Larder, capsys: pytest.CaptureFixture[str]) -> None:
    """Every invoice all or none; the summary adds up; what was refused is there with its problem."""
    file = write(tmp_path, *ROWS)
    status, _ = await replay(file, shop.url, clients=1)
    assert status == 1
    assert await stocks(shop) == {"a": 46, "b_c": 45}
    assert shop.keys == [f"run:1:{invoice}:1" for invoice in ("1", "2", "C3", "5", "6", "7")]
    summary = json.loads(capsys.readouterr().out)
    counts = {
        "accepted": 4,
        "refused": 2,
        "unknown": 0,
        "replays": 0,
        "retries": 0,
        "lines": 6,
        "taken_units": 12,
        "returned_units": 3,
    }
    assert summary | counts == summary
    listed = refused_of(file)
    assert [(entry["invoice"], entry["status"], entry["outcome"]) for entry in listed] == [
        ("5", 409, "refused"),
        ("7", 404, "refused"),
    ]
    assert listed[0]["problem"]["shortages"][0]["available"] == 46
    assert listed[1]["problem"]["missing"] == ["gone"]


async def test_a_run_is_named_by_its_id(tmp_path: Path, shop: Larder) -> None:
    """With the same one every answer is a replay, with another, or in another repetition, the sales are new."""
    file = write(tmp_path, *ROWS[:4])
    _, first = await replay(file, shop.url)
    _, second = await replay(file, shop.url)
    assert (first.counts["replays"], second.counts["replays"]) == (0, 2)
    assert await stocks(shop) == {"a": 44, "b_c": 44}
    assert [path.name for path in tmp_path.iterdir()] == ["sales.csv"], "no refusals, no list"
    await replay(file, shop.url, run_id="other", repeat=2)
    assert len(set(shop.keys)) == 6
    assert await verified(file, shop.url, repeat=3) == 0


@pytest.mark.parametrize("seed", range(3))
async def test_flaky_service_sells_exactly_once(tmp_path: Path, shop: Larder, seed: int) -> None:
    """Answers lost before and after booking: every stock and movement is that of the file, by the verifier's own sums."""
    chance = random.Random(seed)
    failures: Counter[str] = Counter()

    async def flaky(number: int, body: Any) -> Response | None:  # noqa: ARG001  # a Fault
        if failures[body["reference"]] >= 4 or chance.random() < 0.4:
            return None
        failures[body["reference"]] += 1
        return chance.choice([NoAnswer(), problem(503, "", "outcome-unknown"), problem(409, "", "request-in-progress")])

    rows = [(str(number // 3), chance.choice(["a", "b c"]), chance.choice([-2, 0, 1, 2, 3, 60])) for number in range(150)]
    file = write(tmp_path, *rows)
    shop.before = shop.after = flaky
    status, run = await replay(file, shop.url, clients=8, retries=4)
    assert status == 1
    assert failures.total() > 40
    assert run.counts["replays"] > 5
    assert await verified(file, shop.url) == 0


async def test_verifier_finds_what_is_wrong(tmp_path: Path, shop: Larder, capsys: pytest.CaptureFixture[str]) -> None:
    """A check that cannot fail is none: a sale too many, one too few, a refusal that was wrong, a fate unknown."""
    file = write(tmp_path, *ROWS[:8])
    await replay(file, shop.url, clients=1)
    listed, sales = Path(f"{file}.refused.jsonl"), file.read_text()
    refusals = listed.read_text()
    assert await verified(file, shop.url) == 0
    for text, said in [
        (sales.replace("2,b c,X,4", "2,b c,X,5"), "b_c: stock 45 through the cache, expected 44"),
        (sales.replace("2,b c,X,4,d,1.0\n", ""), "invoice 2, delta -4: booked 1 times too often"),
        (sales + "9,a,X,1,d,1.0\n", "invoice 9, delta -1: 1 times missing"),
    ]:
        file.write_text(text)
        assert await verified(file, shop.url) == 1
        assert said in capsys.readouterr().out
    file.write_text(sales)
    listed.write_text(refusals.replace('"available": 46', '"available": 100'))
    assert await verified(file, shop.url) == 1
    found = capsys.readouterr().out
    assert "the ledger has 46" in found
    assert "100 were available" in found
    listed.write_text(refusals.replace('"refused"', '"unknown"'))
    assert await verified(file, shop.url) == 2


async def test_latency_counts_from_the_schedule(tmp_path: Path, shop: Larder, capsys: pytest.CaptureFixture[str]) -> None:
    """One request stalls: those that were due meanwhile count their waiting. Without a rate they do not: they were not due."""
    stall_s = 0.6

    async def stall(number: int, body: Any) -> None:  # noqa: ARG001  # a Fault
        if number in {1, 21}:
            await asyncio.sleep(stall_s)

    shop.before = stall
    file = write(tmp_path, *ones(20))
    await replay(file, shop.url, clients=1, rate_per_s=1000.0)
    await replay(file, shop.url, clients=1, run_id="unpaced")
    paced, unpaced = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (paced["latency_from"], unpaced["latency_from"]) == ("schedule", "sending")
    assert paced["p50_ms"] > (stall_s - 0.02) * 1000
    assert unpaced["p50_ms"] < stall_s * 1000 <= unpaced["p100_ms"]
    await replay(file, shop.url, run_id="slow", rate_per_s=50.0)
    assert json.loads(capsys.readouterr().out)["elapsed_s"] >= 19 / 50, "the rate is kept"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: problem(404, "", "route-not-found"), "Is this the address of a Larder"),
        (lambda: problem(501, "not yet"), "not yet"),
        (lambda: RedirectResponse("http://elsewhere/"), "redirects to http://elsewhere/"),
        (lambda: Response("<html>hello</html>"), "not with the lines that were sent"),
        (lambda: JSONResponse([]), "not with the lines that were sent"),
        (lambda: JSONResponse({"lines": [{"product_id": "a", "delta": 1}]}), "not with the lines that were sent"),
    ],
)
async def test_answer_that_no_retry_mends_stops_the_replay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: Callable[[], Response], said: str
) -> None:
    """Once is enough: the other invoices would fare no better."""
    service = Faulty(before=fails(99, answer))
    async with serving(service) as url:
        status, run = await replay(write(tmp_path, *ones(9)), url, clients=1)
    assert status == 2
    assert said in capsys.readouterr().err
    assert len(service.requests) == run.counts["unknown"] == 1


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_request_that_breaks_a_rule_is_a_refusal(tmp_path: Path, status: int) -> None:
    """It is not tried again; text that is no JSON is kept as it came."""
    file = write(tmp_path, *ones(1))
    async with serving(Faulty(before=fails(1, lambda: Response("no", status)))) as url:
        assert (await replay(file, url))[0] == 1
    assert [(entry["status"], entry["problem"]) for entry in refused_of(file)] == [(status, "no")]


async def test_service_that_goes_away(tmp_path: Path, shop: Larder, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, the cause and not its consequences; what is unknown is listed, and the same run id mends it."""

    async def gone(number: int, body: Any) -> Response | None:  # noqa: ARG001  # a Fault
        return problem(503, "away") if number > 3 else None

    shop.after = gone
    file = write(tmp_path, *ones(30))
    status, run = await replay(file, shop.url, clients=2, retries=1)
    assert (status, run.counts["accepted"], run.counts["unknown"]) == (2, 3, 2)
    said = capsys.readouterr().err
    assert "in 2 tries. The last: 503 Service Unavailable: away" in said
    assert "--run-id run" in said
    assert [entry["outcome"] for entry in refused_of(file)] == ["unknown", "unknown"]
    shop.after = no_fault
    status, again = await replay(file, shop.url)
    assert (status, again.counts["replays"]) == (0, 5)
    assert await stocks(shop) == {"a": 20, "b_c": 50}


async def test_list_of_refusals_that_is_something_else(tmp_path: Path) -> None:
    """It is left alone, and nothing is sent; an earlier list is replaced, and removed when nothing is refused."""
    file, notes = write(tmp_path, *ones(1)), tmp_path / "notes"
    notes.write_text("my notes")
    service = Faulty(before=fails(1, lambda: Response("no", 422)))
    async with serving(service) as url:
        for refused in (notes, file, tmp_path):
            assert (await replay(file, url, refused=refused))[0] == 2
        assert notes.read_text() == "my notes"
        assert service.requests == []
        assert (await replay(file, url))[0] == 1
        service.before = fails(9, lambda: JSONResponse({"lines": [{"product_id": "a", "delta": -1}]}))
        assert (await replay(file, url))[0] == 0
    assert not Path(f"{file}.refused.jsonl").exists()


async def test_signal_ends_the_retries(tmp_path: Path) -> None:
    """A request that would be tried again is given up, and that is an interruption, not a failure."""

    async def interrupt_and_fail(number: int, body: Any) -> Response:  # noqa: ARG001  # a Fault
        os.kill(os.getpid(), signal.SIGINT)
        return problem(503, "away")

    service = Faulty(before=interrupt_and_fail)
    async with serving(service) as url:
        status, run = await replay(write(tmp_path, *ones(9)), url, clients=1)
    assert (status, run.counts["unknown"], len(service.requests)) == (130, 1, 1)


@pytest.mark.parametrize("times", [1, 2], ids=["Ctrl-C", "Ctrl-C twice"])
async def test_interrupted_and_gone_on_with(tmp_path: Path, shop: Larder, times: int) -> None:
    """Once: requests under way end and are counted. Twice: they are of unknown fate. The same run id does the rest."""
    file, reached, gate = write(tmp_path, *ones(30)), asyncio.Event(), asyncio.Event()

    async def hold(number: int, body: Any) -> None:  # noqa: ARG001  # a Fault
        if number == 6:
            reached.set()
        if number >= 5:
            await gate.wait()

    shop.after = hold
    async with asyncio.timeout(60):
        process = await start(file, shop.url)
        assert process.stderr is not None
        await reached.wait()
        said = ""
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            while "Stopping" not in said:
                said += (await process.stderr.readline()).decode()
        if times == 1:
            gate.set()
        output, rest = await process.communicate()
        gate.set()
        said += rest.decode()
        assert process.returncode == 130, said
        assert "Traceback" not in said
        assert "--run-id held" in said
        summary = json.loads(output)
        assert (summary["accepted"], summary["unknown"]) == ((6, 0) if times == 1 else (4, 2))
        assert len(shop.requests) == 6, "nothing new is begun"
        assert Path(f"{file}.refused.jsonl").exists() == (times == 2)
        again = await start(file, shop.url)
        output, _ = await again.communicate()
    assert again.returncode == 0
    assert json.loads(output)["replays"] == 6
    assert await stocks(shop) == {"a": 20, "b_c": 50}


async def start(file: Path, url: str) -> asyncio.subprocess.Process:
    words = ["--clients", "2", "--timeout-s", "300", "--run-id", "held", "--json"]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.sales", "replay", str(file), "--url", url, *words),
        cwd=Path(__file__).parents[3],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
