"""The directory of the private servers' files, with the lock that makes one process their owner, and those of their sockets.

No other account can look into them. When Larder runs as root, they belong to the account that the servers run as.
"""

import fcntl
import os
import re
import stat
import tempfile
from pathlib import Path
from typing import Self

from app.private_servers.account import give, server_account
from app.private_servers.errors import DirectoryInUse, DirectoryNotWritable, ServerFailed

_USUAL = "/tmp"  # noqa: S108 - a private directory is made in it
_LONGEST = 60
"""Bytes of a directory that leave room for the socket's own name. A socket's path has at most 103 bytes on macOS."""
_PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")
"""Names that mean the same in PostgreSQL's list of directories, in the configuration of Redis and in a URL."""


class ServerDirectory:
    """A locked directory. While it is open, servers whose files are in it belong to this process.

    The kernel releases the lock when the process ends, whatever the cause. The holder may therefore stop a server that already
    runs on the directory's files, because the owner of that server is dead.

    Raises:
        DirectoryNotWritable: it cannot be made, or no file can be written in it.
        DirectoryInUse: another living process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._lock = _take_lock(self.path)
        if (account := server_account()) is not None:
            give(self.path, account)

    def close(self) -> None:
        """Release the lock. Closing twice is harmless."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def socket_directory(prefix: str, usual: str = _USUAL) -> Path:
    """Make a directory for a server's socket: in TMPDIR, or in the usual place if that name does not do.

    Raises:
        ServerFailed: neither can be used.
    """
    hindrances = []
    for place in (os.environ.get("TMPDIR") or usual, usual):
        absolute = os.path.abspath(place)  # noqa: PTH100 - `resolve` would make it longer where it is a link
        if len(absolute.encode()) > _LONGEST or not _PLAIN.fullmatch(absolute):
            hindrances.append(f"{absolute} is longer than {_LONGEST} bytes or has other characters than A-Z a-z 0-9 / . _ + -")
            continue
        try:
            return Path(tempfile.mkdtemp(prefix=prefix, dir=absolute))
        except OSError as error:
            hindrances.append(f"{absolute} cannot be written to ({error.strerror})")
    raise ServerFailed(
        f"There is no directory for the socket of a private server: {'; '.join(dict.fromkeys(hindrances))}."
        " Set TMPDIR to a short one that can be written to."
    )


def _take_lock(path: Path) -> int:
    lock = -1
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if (status := path.stat()).st_uid == os.geteuid():  # an earlier release made it readable for others
            path.chmod(status.st_mode & stat.S_IRWXU)
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
    except BlockingIOError as error:
        holder = os.read(lock, 32).decode(errors="replace").strip()
        os.close(lock)
        raise DirectoryInUse(
            f"Another Larder (process {holder or 'unknown'}) runs its private servers in {path}. "
            "Stop it first, or start this one in another directory."
        ) from error
    except OSError as error:
        if lock >= 0:
            os.close(lock)
        raise DirectoryNotWritable(
            f"{path} cannot be written to ({error.strerror}). The private servers keep their files there: make it writable, "
            "or set LARDER_DATABASE_URL and LARDER_REDIS_URL to servers of your own."
        ) from error
    return lock
