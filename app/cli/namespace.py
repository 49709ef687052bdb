"""``larder namespace``: show which cache namespace of a database is trusted, and bar one."""

import argparse

from app.cache.postgres.namespaces import bar, list_namespaces
from app.cli.environment import check_database, read_settings
from app.cli.errors import CommandFailed
from app.main import open_database
from app.postgres.errors import DatabaseError
from app.products.source import PRODUCTS


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "namespace",
        help="show which cache namespaces of the database are trusted, or bar one",
        description="Only one cache namespace of a database is trusted at a time. Instances with another one read from"
        " PostgreSQL until its fence has lapsed. To hand over early, or to take the trust from a forgotten instance, bar its"
        " namespace.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="list the namespaces")
    for name, text in (
        ("bar", "forbid the audits of a namespace: its cache stops being trusted within the fence's time"),
        ("unbar", "allow them again"),
    ):
        actions.add_parser(name, help=text).add_argument("name", metavar="NAME", help="the namespace")


async def run(arguments: argparse.Namespace) -> int:
    """List the namespaces, or bar one."""
    settings = read_settings()
    await check_database(settings)
    database = open_database(settings)
    try:
        if arguments.action != "list":
            await bar(database, PRODUCTS, arguments.name, barred=arguments.action == "bar")
        for namespace in await list_namespaces(database, PRODUCTS):
            trust = f"may be trusted for {namespace.trusted_s:.1f} s" if namespace.trusted_s > 0 else "is not trusted"
            ban = ", barred" if namespace.barred else ""
            print(f"{namespace.name}: {trust}, {namespace.completed} audits completed of {namespace.announced}{ban}")
    except DatabaseError as error:
        raise CommandFailed(f"{error}. Nothing was changed.") from error
    finally:
        await database.close()
    return 0
