"""The errors that end an import early. A rejected row is not one of them: it is listed, and the import goes on."""


class ImportStopped(Exception):
    """The import cannot go on; the message says what happened and what to do."""


class GivenUp(ImportStopped):
    """A request was not sent, or not tried again, because the import is stopping for another reason."""
