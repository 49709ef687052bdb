"""The account for PostgreSQL when Larder runs as root, because PostgreSQL refuses to run as root.

It exists only on a machine where Larder runs as root, most often a container. It has no login. It owns the server's
directories. The directories above those, and above the programs, get the permission ``o+x``, so that it can reach them.
"""

import os
import pwd
import stat
import subprocess
from pathlib import Path

from app.private_servers.errors import ServerFailed

_NAME = "larder-postgres"


def server_account() -> str | None:
    """Return the account to run PostgreSQL as, or ``None`` for the present one. It is added to the machine if necessary.

    Raises:
        ServerFailed: Larder runs as root and cannot add an account.
    """
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(_NAME)
    except KeyError:
        command = "useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin"
        try:
            subprocess.run([*command.split(), _NAME], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ServerFailed(
                f"PostgreSQL does not run as root, and adding the account {_NAME} for it failed "
                f"({getattr(error, 'stderr', None) or error}). Run Larder as an ordinary user, or set LARDER_DATABASE_URL."
            ) from error
    return _NAME


def give(directory: Path, account: str | None) -> None:
    """Let only the account use ``directory``, and let it pass the directories above."""
    directory.chmod(stat.S_IRWXU)
    if account is not None:
        entry = pwd.getpwnam(account)
        os.chown(directory, entry.pw_uid, entry.pw_gid)
        _make_passable(directory)


def open_programs(programs: Path, account: str | None) -> None:
    """Let the account run the programs, which a strict umask at their installation may have prevented.

    Args:
        programs: the wheel's directory of programs. Libraries are beside it, and in a ``.libs`` directory beside the wheel's.
        account: ``None`` changes nothing.
    """
    if account is None:
        return
    probe = [str(programs / "postgres"), "--version"]
    _make_passable(programs)
    if _can_run(probe, account):
        return
    package = programs.parents[1]
    for root in (package, package.with_name(package.name + ".libs")):
        for path in (root, *root.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
    if not _can_run(probe, account):
        raise ServerFailed(
            f"The account {account} cannot run {probe[0]}. Run Larder as an ordinary user, or set LARDER_DATABASE_URL."
        )


def _make_passable(path: Path) -> None:
    for parent in path.parents:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            parent.chmod(mode | stat.S_IXOTH)


def _can_run(command: list[str], account: str) -> bool:
    try:
        done = subprocess.run(command, user=account, group=account, extra_groups=[], cwd="/", capture_output=True, check=False)
    except PermissionError:
        return False
    return done.returncode == 0
