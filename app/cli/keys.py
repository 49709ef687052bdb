"""``larder keys``: make, list, rotate and revoke the keys of clients."""

import argparse
import asyncio
import re
import sys
from datetime import UTC, datetime, timedelta

from app.access import key_table
from app.access.key_file import file_entry
from app.access.key_ring import COPY_LIFE_S
from app.access.keys import CLIENT_PATTERN, KeyRecord, Scope, id_of, make_key
from app.cli.environment import check_database, read_settings
from app.cli.errors import CommandFailed
from app.main import open_database
from app.postgres.database import Database
from app.postgres.errors import DatabaseError

REVOKE_WAIT_S = COPY_LIFE_S + 0.25
"""How long ``revoke`` waits after its commit: the life of the longest-lived copy, and a margin for clocks that run unevenly."""
_UNITS_S = {"m": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"([1-9][0-9]{0,6})([mhd])")
_RATE = re.compile(r"([1-9][0-9]{0,6})(?:/s)?")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "keys",
        help="make, list, rotate and revoke the keys of clients",
        description="A key lets a client use the service within its scopes. It is shown once, when it is made; the database has"
        " only its hash. A client may have several keys at once.",
        epilog="Scopes: " + "; ".join(f"{scope}: {scope.allows}" for scope in Scope) + ".",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a key and print it")
    create.add_argument("--client", required=True, type=_client, metavar="NAME", help="who uses it, such as till or erp")
    create.add_argument(
        "--scope",
        required=True,
        action="append",
        type=Scope,
        choices=list(Scope),
        metavar="SCOPE",
        help="what it allows; may be given several times",
    )
    create.add_argument("--rate", type=_rate, metavar="N/s", help="the client's rate in each worker (default: the setting)")
    create.add_argument(
        "--offline",
        action="store_true",
        help="store nothing; print the lines to put into the key file that LARDER_KEYS_FILE names",
    )
    rotate = actions.add_parser("rotate", help="make a key in place of another one, which expires after the overlap")
    rotate.add_argument("id", metavar="ID", help="the key to replace")
    rotate.add_argument(
        "--overlap",
        type=_duration,
        default=_UNITS_S["d"],
        metavar="TIME",
        help="life left to the old key (default: 1d)",
    )
    create.add_argument("--expires", type=_duration, metavar="TIME", help="its life, such as 90d or 12h (default: no end)")
    rotate.add_argument("--expires", type=_duration, metavar="TIME", help="the new key's life (default: that of the old one)")
    actions.add_parser("list", help="list all keys, also expired and revoked ones")
    revoke = actions.add_parser("revoke", help="end keys; when this returns, no process accepts them any more")
    revoke.add_argument("ids", nargs="+", metavar="ID", help="a key's id, the part after lrd_")


async def run(arguments: argparse.Namespace) -> int:
    """Carry out the action."""
    if arguments.action == "create" and arguments.offline:
        _create_offline(arguments)
        return 0
    settings = read_settings()
    await check_database(settings)
    database = open_database(settings)
    actions = {"create": _create, "rotate": _rotate, "list": _list, "revoke": _revoke}
    try:
        await actions[arguments.action](database, arguments)
    except DatabaseError as error:
        raise CommandFailed(f"{error}. Nothing was changed, unless the answer was lost: see `larder keys list`.") from error
    finally:
        await database.close()
    return 0


def _create_offline(arguments: argparse.Namespace) -> None:
    key, digest = make_key()
    expires = None if arguments.expires is None else datetime.now(UTC) + timedelta(seconds=arguments.expires)
    lines = file_entry(
        {
            "id": id_of(key),
            "client": arguments.client,
            "scopes": sorted(arguments.scope),
            "sha256": digest.hex(),
            "rate_per_s": arguments.rate,
            "expires": expires,
        }
    )
    _show(key, f"Key {id_of(key)} of client {arguments.client}. It was not stored; add these lines to the key file:\n\n{lines}")


async def _create(database: Database, arguments: argparse.Namespace) -> None:
    key, digest = make_key()
    await key_table.create_key(
        database,
        id_of(key),
        digest,
        arguments.client,
        set(arguments.scope),
        rate_per_s=arguments.rate,
        expires_in_s=arguments.expires,
    )
    _show(key, f"Key {id_of(key)} of client {arguments.client}. It is shown only now. Every process knows it within 2 seconds.")


async def _rotate(database: Database, arguments: argparse.Namespace) -> None:
    key, digest = make_key()
    rotated = await key_table.rotate_key(
        database, arguments.id, id_of(key), digest, overlap_s=arguments.overlap, expires_in_s=arguments.expires
    )
    if rotated is None:
        raise CommandFailed(f"there is no valid key {arguments.id}. Nothing was changed. `larder keys list` shows all keys.")
    client, expires = rotated
    until = "has no end" if expires is None else f"expires at {expires:%Y-%m-%d %H:%M}"
    _show(
        key,
        f"Key {id_of(key)} of client {client}, which {until}. It is shown only now. Key {arguments.id} stays valid for"
        f" {_in_words(arguments.overlap)}; give the client the new one, then end the old one at once with:"
        f" larder keys revoke {arguments.id}",
    )


async def _list(database: Database, _arguments: argparse.Namespace) -> None:
    keys = await key_table.list_keys(database)
    if not keys:
        print("There is no key. Make one: larder keys create --client NAME --scope products:read")
    for key in keys:
        used = f"last used {key.last_used_on:%Y-%m-%d}" if key.last_used_on else "not used"
        made = f"made {key.created_at:%Y-%m-%d}"
        print(f"{key.id}  {key.client}  {_state(key)}  {made}  {used}  {' '.join(key.scopes)}")


async def _revoke(database: Database, arguments: argparse.Namespace) -> None:
    wanted = list(dict.fromkeys(arguments.ids))
    found = await key_table.revoke_keys(database, wanted)
    if found:
        await asyncio.sleep(REVOKE_WAIT_S)
    for key_id in wanted:
        if key_id in found:
            print(f"Key {key_id} is revoked, and no process accepts it any more.")
    if missing := [key_id for key_id in wanted if key_id not in found]:
        raise CommandFailed(f"there is no key {', '.join(missing)}. `larder keys list` shows all keys.")


def _show(key: str, explanation: str) -> None:
    """Print the key alone on stdout, so that a script can take it, and what a person needs on stderr."""
    print(explanation, file=sys.stderr)
    print(key, flush=True)


def _state(key: KeyRecord) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
    if key.expires_at is None:
        return "valid"
    return f"{'expired' if key.expired else 'valid until'} {key.expires_at:%Y-%m-%d %H:%M}"


def _client(text: str) -> str:
    if not re.fullmatch(CLIENT_PATTERN, text):
        raise argparse.ArgumentTypeError("a client's name has 1 to 64 of A-Z a-z 0-9 . _ -")
    return text


def _duration(text: str) -> int:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError("a time is a number and m, h or d, such as 90d")
    return int(found[1]) * _UNITS_S[found[2]]


def _in_words(seconds: int) -> str:
    size, unit = next((size, unit) for unit, size in reversed(_UNITS_S.items()) if seconds % size == 0)
    return f"{seconds // size} {unit}"


def _rate(text: str) -> float:
    found = _RATE.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError("a rate is a whole number per second, such as 200/s")
    return float(found[1])
