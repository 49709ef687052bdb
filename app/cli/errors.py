"""The one error of the command line."""


class CommandFailed(Exception):
    """The command cannot do its work, for a reason outside the program.

    The message is for the person at the terminal: what happened, what was kept, and what to do.
    """

    status = 1
    """The exit status."""
