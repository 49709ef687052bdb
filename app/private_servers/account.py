"""The account that the private servers run as when Larder runs as root. PostgreSQL refuses to run as root, and Redis need not.

It exists only on a machine where Larder runs as root, most often a container. It has no login. It owns the servers'
directories, and the parents of those and of the programs get the permission ``o+x``, so that it can reach them.
"""

import os
import pwd
import stat
import subprocess
from pathlib import Path

from app.private_servers.errors import ServerFailed

# Data directories of earlier releases, which ran PostgreSQL alone by it, belong to this name.
_NAME = "larder-postgres"
_WAY_OUT = "Run Larder as an ordinary user, or set LARDER_DATABASE_URL and LARDER_REDIS_URL to servers of your own."


def server_account() -> str | None:
    """Return the account to run servers as, or ``None`` for the present one. It is added to the machine if necessary.

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
                f"The private servers do not run as root, and adding the account {_NAME} for them failed "
                f"({getattr(error, 'stderr', None) or error}). {_WAY_OUT}"
            ) from error
    return _NAME


def give(directory: Path, account: str | None, *files: Path) -> None:
    """Make the account the only one that can use ``directory`` and the files in it, and let it reach them."""
    directory.chmod(stat.S_IRWXU)
    if account is not None:
        entry = pwd.getpwnam(account)
        for path in (directory, *files):
            os.chown(path, entry.pw_uid, entry.pw_gid)
        _make_passable(directory, entry.pw_uid)


def let_reach(path: Path, account: str | None) -> None:
    """Let the account pass the directories above ``path``."""
    if account is not None:
        _make_passable(path, pwd.getpwnam(account).pw_uid)


def open_programs(programs: Path, name: str, account: str | None) -> None:
    """Let the account run a program of a wheel, which a strict umask at its installation may have prevented.

    Args:
        programs: the wheel's directory of programs, two below the package. Libraries are beside it, and in a ``.libs``
            directory beside the package.
        name: the program that has to run.
        account: ``None`` changes nothing.
    """
    if account is None:
        return
    probe = [str(programs / name), "--version"]
    _make_passable(programs, pwd.getpwnam(account).pw_uid)
    if _can_run(probe, account):
        return
    package = programs.parents[1]
    for root in (package, package.with_name(package.name + ".libs")):
        for path in (root, *root.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
    if not _can_run(probe, account):
        raise ServerFailed(f"The account {account} cannot run {probe[0]}. {_WAY_OUT}")


def _make_passable(path: Path, account_id: int) -> None:
    for parent in path.parents:
        status = parent.stat()
        theirs = status.st_uid == account_id and status.st_mode & stat.S_IXUSR
        if not theirs and not status.st_mode & stat.S_IXOTH:
            parent.chmod(status.st_mode | stat.S_IXOTH)


def _can_run(command: list[str], account: str) -> bool:
    try:
        done = subprocess.run(command, user=account, group=account, extra_groups=[], cwd="/", capture_output=True, check=False)
    except PermissionError:
        return False
    return done.returncode == 0
