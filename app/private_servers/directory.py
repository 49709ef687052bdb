"""The directory of the private servers' files, and the lock that makes one process their owner.

No other account can look into it. When Larder runs as root, it belongs to the account that the servers run as.
"""

import fcntl
import os
import stat
from pathlib import Path
from typing import Self

from app.private_servers.account import give, server_account
from app.private_servers.errors import DirectoryInUse, DirectoryNotWritable


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
