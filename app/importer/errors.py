"""The errors that end an import early.

    ImportStopped
    ├── BadInput        the file or an argument cannot be used
    ├── BadOutput       the list of rejected rows cannot be written
    ├── ServiceStopped  the service did not answer, or gave an answer that a retry would not change
    └── GivenUp         a request was abandoned because the import is stopping for another reason

A rejected row is not an error: the import goes on, and the row is listed with its reason.
"""


class ImportStopped(Exception):
    """The import cannot go on; the message says what happened and what to do."""


class BadInput(ImportStopped):
    """The file cannot be read as a CSV of products, or an argument cannot be used."""


class BadOutput(ImportStopped):
    """The list of rejected rows cannot be written."""


class ServiceStopped(ImportStopped):
    """The service cannot be reached, or its answer shows that another try would not help."""


class GivenUp(ImportStopped):
    """The request was not sent, or not tried again, because the import is stopping."""
