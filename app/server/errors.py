"""The error that stops the server from serving."""


class CannotServe(Exception):
    """The address cannot be served, for a reason outside the program. The message says what to do about it."""
