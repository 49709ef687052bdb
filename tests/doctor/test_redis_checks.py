"""What the doctor says of a Redis: each fault is named with its cure, and a sound one has none."""

from collections.abc import Awaitable, Callable, Iterator
from itertools import count

import pytest
import redis.asyncio

from app.cache.redis.connection import WHO_SHA
from app.cache.redis.store import Names
from app.cache.slot import cache_name
from app.cli import parse
from app.doctor.findings import Finding, Verdict, found_by, status_of
from app.doctor.redis_checks import COMMANDS, RedisChecks
from app.main import running
from app.products.commands import Upsert
from app.products.product import Draft
from app.settings import Settings
from tests.doctor.conftest import REPLICATION, RUN, SERVER, bulk, stand_in
from tests.harness.redis_user import documented_rules
from tests.limits import redis_options

MakeUser = Callable[[list[str]], Awaitable[str]]


async def _examine(url: str) -> dict[str, list[Finding]]:
    checks = RedisChecks(redis_options(url))
    found: dict[str, list[Finding]] = {}
    async for finding in found_by(checks.all(), 30):
        found.setdefault(finding.check, []).append(finding)
    await checks.close()
    return found


def _said(found: dict[str, list[Finding]], check: str) -> str:
    [finding] = found[check]
    assert finding.verdict is Verdict.NO
    return finding.sentence


async def test_sound_redis_with_the_documented_rights(user_url: MakeUser, redis_url: str) -> None:
    """With exactly the rights of docs/OPERATIONS.md every check holds, and no key is left."""
    found = await _examine(await user_url(documented_rules()))
    assert [finding for findings in found.values() for finding in findings if finding.verdict is not Verdict.OK] == []
    assert "and no other keys" in found["D5"][0].sentence
    client = redis.asyncio.Redis.from_url(redis_url)
    assert [key async for key in client.scan_iter("wtc-doctor:*", count=10_000) if await client.ttl(key) > 5] == []
    await client.aclose()


@pytest.mark.parametrize("command", COMMANDS)
async def test_each_missing_command_is_named(user_url: MakeUser, command: str) -> None:
    """Without one of the commands the user lacks that one, by the name that ACL SETUSER takes."""
    checks = RedisChecks(redis_options(await user_url([*documented_rules(), f"-{command}"])))
    [finding] = await checks.rights()
    await checks.close()
    assert finding.verdict is Verdict.NO
    assert f"lacks +{command}. " in finding.sentence


async def test_rights_that_are_usual_and_too_few(user_url: MakeUser) -> None:
    """``+@all -@dangerous`` lacks INFO, which D1 cannot even ask; D5 says so."""
    found = await _examine(await user_url(["on", "~*", "+@all", "-@dangerous"]))
    assert "lacks +info" in _said(found, "D5")
    assert "INFO, TIME and PTTL is refused" in _said(found, "D4")
    assert "no permissions" in _said(found, "D2")
    assert status_of([finding for findings in found.values() for finding in findings]) == 1


async def test_keys_of_other_names_only(user_url: MakeUser) -> None:
    """A user whose keys are others' is told which patterns it lacks."""
    rules = [rule for rule in documented_rules() if not rule.startswith("~")]
    assert "~wtc:*" in _said(await _examine(await user_url([*rules, "~shop:*"])), "D5")


async def test_keys_of_a_cache(redis_url: str, namespace: str) -> None:
    """The keys of a cache are Larder's own."""
    names = Names(cache_name(namespace))
    client = redis.asyncio.Redis.from_url(redis_url)
    for key in (names.fence, names.watermark, names.claim, f"{names.prefix}mug"):
        await client.set(key, "1", px=5_000)
    checks = RedisChecks(redis_options(redis_url))
    assert [finding for finding in await checks.memory() if "not Larder's" in finding.sentence] == []
    await client.aclose()
    await checks.close()


async def test_foreign_key_of_our_prefix(redis_url: str, namespace: str) -> None:
    """A key that begins with wtc and is not Larder's is named."""
    client = redis.asyncio.Redis.from_url(redis_url)
    key = f"wtcache-{namespace}"
    await client.set(key, "1")
    checks = RedisChecks(redis_options(redis_url))
    [finding] = [one for one in await checks.memory() if one.verdict is Verdict.NO]
    assert key in finding.sentence
    await client.delete(key)
    await client.aclose()
    await checks.close()


def _answer_with(server: str = SERVER, replication: str = REPLICATION, cluster: str = "cluster_enabled:0\r\n") -> object:
    ids: Iterator[int] = count()

    def answer(words: list[str]) -> bytes:
        match [words[0].upper(), *words[1:]]:
            case ["INFO", section]:
                texts = {"server": server.replace("RUN", RUN if next(ids) % 2 else RUN[::-1]), "replication": replication}
                return bulk(f"# {section}\r\n{texts.get(section, cluster)}")
            case ["EVALSHA", digest, _, nonce] if digest == WHO_SHA:
                told = dict(line.split(":") for line in replication.split())
                return b"*3\r\n" + b"".join(map(bulk, (nonce, told["role"], told["master_replid"])))
            case ["CLIENT", "ID"]:
                return b":7\r\n"
            case ["EVALSHA", *_]:
                return b"-ERR This Redis command is not allowed from script: INFO\r\n"
        return b"+OK\r\n"

    return answer


@pytest.mark.parametrize(
    ("check", "answer", "fault", "cure"),
    [
        ("address", {"server": SERVER.replace("standalone", "sentinel")}, "this is a sentinel", "Name the port"),
        ("identity", {"replication": "role:master\r\nmaster_replid:" + 40 * "0" + "\r\n"}, "master_replid", "PostgreSQL alone"),
        ("identity", {"replication": REPLICATION.replace("master\r", "slave\r")}, "not a master", "Name the master"),
        ("identity", {"server": SERVER.replace(RUN, "*")}, "run_id", "use a Redis that shows them"),
        (
            "one_server",
            {"server": SERVER.replace(RUN, "RUN")},
            "2 servers answered on one connection",
            "Name a server directly",
        ),
        ("scripts", {}, "not allowed from script", "use another Redis"),
        ("cluster", {"cluster": "cluster_enabled:1\r\n"}, "node of a cluster", "Set it to 64"),
    ],
)
async def test_servers_that_do_not_do(check: str, answer: dict[str, str], fault: str, cure: str) -> None:
    """Set-ups that nobody has at hand, by a stand-in that answers as they do."""
    async with stand_in(_answer_with(**answer)) as url:  # type: ignore[arg-type]  # made above
        checks = RedisChecks(redis_options(url))
        [finding] = await getattr(checks, check)()
        await checks.close()
    assert finding.verdict is Verdict.NO
    assert finding.needed
    assert fault in finding.sentence
    assert cure in finding.sentence


async def test_nobody_listens() -> None:
    """A server that is not there is unknown, not wrong: the exit status tells the two apart."""
    found = await _examine("redis://127.0.0.1:1/0")
    assert found["D1"][0].verdict is Verdict.UNKNOWN
    assert "refused" in found["D1"][0].sentence or "Connect" in found["D1"][0].sentence


async def test_documented_rights_are_enough(
    user_url: MakeUser,
    database_url: str,
    namespace: str,
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The service has hits, and ``larder verify`` and ``larder purge`` do their work, as a user with exactly these rights."""
    given = {
        "LARDER_DATABASE_URL": database_url,
        "LARDER_REDIS_URL": await user_url(documented_rules()),
        "LARDER_CACHE_NAMESPACE": namespace,
        "LARDER_REDIS_TIMEOUT_MS": "5000",
    }
    for name, value in given.items():
        environment.setenv(name, value)
    async with running(Settings.from_env()) as service:
        for stock in (1, 2):
            await service.products.write(Upsert([Draft("mug", "Mug", 100, stock), Draft("cup", "Cup", 100, stock)]))
            await service.products.get_many(["mug", "cup", "none"])
        assert {read.status for read in await service.products.get_many(["mug", "cup", "none"])} == {"hit"}
        await service.products.drop("cup")
    for arguments, said in ((["verify", "--repair"], "0 wrong"), (["purge"], "")):
        command, parsed = parse(arguments)
        assert await command.run(parsed) == 0
        assert said in capsys.readouterr().out
