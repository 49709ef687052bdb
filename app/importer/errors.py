"""Why an import ended early.

    ImportStopped
    ├── BadInput        the file or an argument: nothing that the service could help with
    ├── BadOutput       the list of refused rows cannot be written
    ├── ServiceStopped  the service did not answer, or with something that no retry will mend
    └── GivenUp         this part was not done because the import is stopping for another reason

A refused row is not an error: the import goes on, and the row is listed with its reason.
"""


class ImportStopped(Exception):
    """The import cannot go on; the message tells what happened and what to do."""


class BadInput(ImportStopped):
    """The file cannot be read as a CSV of products."""


class BadOutput(ImportStopped):
    """The list of refused rows cannot be written."""


class ServiceStopped(ImportStopped):
    """The service cannot be reached, or its answer rules out that another try helps."""


class GivenUp(ImportStopped):
    """Not sent, or not tried again, because the import is already stopping."""
