"""The account that PostgreSQL runs as when Larder runs as root, which PostgreSQL refuses to do.

Only on a machine where Larder is root (a container, most often): an account without a login is added, the parents of the
server's directory and programs become passable for it (`o+x`, nothing more), its own directories belong to it.
"""

import os
import pwd
import stat
import subprocess
from pathlib import Path

from app.private_servers.errors import ServerFailed

_NAME = "larder-postgres"


def server_account() -> str | None:
    """The account to run PostgreSQL as, added to the machine if need be; None to run it as who we are.

    Raises:
        ServerFailed: we are root and cannot add an account.
    """
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(_NAME)
    except KeyError:
        command = [
            "useradd",
            "--system",
            "--no-create-home",
            "--home-dir",
            "/nonexistent",
            "--shell",
            "/usr/sbin/nologin",
            _NAME,
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ServerFailed(
                f"PostgreSQL does not run as root, and adding the account {_NAME} for it failed "
                f"({getattr(error, 'stderr', None) or error}). Run Larder as an ordinary user, or set LARDER_DATABASE_URL."
            ) from error
    return _NAME


def give(directory: Path, account: str | None) -> None:
    """Make `directory` the account's own, closed to others, with a passable way to it."""
    directory.chmod(stat.S_IRWXU)
    if account is not None:
        entry = pwd.getpwnam(account)
        os.chown(directory, entry.pw_uid, entry.pw_gid)
        _passable(directory)


def open_programs(programs: Path, account: str | None) -> None:
    """Let the account run the programs, if the umask at their installation closed them.

    Args:
        programs: the wheel's directory of programs; libraries lie beside it and in a `.libs` directory beside the wheel's.
        account: None changes nothing.
    """
    if account is None:
        return
    probe = [str(programs / "postgres"), "--version"]
    _passable(programs)
    if _runs(probe, account):
        return
    package = programs.parents[1]
    for root in (package, package.with_name(package.name + ".libs")):
        for path in (root, *root.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
    if not _runs(probe, account):
        raise ServerFailed(
            f"The account {account} cannot run {probe[0]}. Run Larder as an ordinary user, or set LARDER_DATABASE_URL."
        )


def _passable(path: Path) -> None:
    for parent in path.parents:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            parent.chmod(mode | stat.S_IXOTH)


def _runs(command: list[str], account: str) -> bool:
    try:
        done = subprocess.run(command, user=account, group=account, extra_groups=[], cwd="/", capture_output=True, check=False)
    except PermissionError:
        return False
    return done.returncode == 0
