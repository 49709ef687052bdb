"""The error of the command line."""


class CommandFailed(Exception):
    """The command cannot do its work, for a reason outside the program.

    The message tells the user what happened, what was kept, and what to do.
    """

    status = 1
    """The exit status."""
