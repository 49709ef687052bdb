"""The format of the log: lines of text on a terminal, otherwise a JSON object per line.

The JSON has the fields of OpenTelemetry's log data model (``timestamp``, ``severity_text``, ``body``), with the attributes of
its semantic conventions beside them.
"""

import logging
import os
import sys
from datetime import UTC, datetime
from typing import Literal

from pythonjsonlogger.json import JsonFormatter
from typing_extensions import override

LogFormat = Literal["auto", "json", "text"]
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_FIELDS = {
    "levelname": "severity_text",
    "name": "otel.scope.name",
    "message": "body",
    "exc_info": "exception.stacktrace",
}
_LIBRARIES = {
    **dict.fromkeys(("uvicorn.error", "httpx", "httpcore", "alembic", "urllib3"), logging.WARNING),
    "opentelemetry": logging.ERROR,  # it warns before each retry
}
"""Libraries that report routine events, and the level from which they are logged."""


def log_to_stderr(form: LogFormat = "auto") -> None:
    """Log from INFO on; of the libraries, only what is no routine."""
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(json_lines() if as_json else logging.Formatter(_TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name, level in _LIBRARIES.items():
        logging.getLogger(name).setLevel(level)


def json_lines() -> logging.Formatter:
    """Return the formatter that makes one JSON object of each record."""
    return _JsonLines(
        ["asctime", *list(_FIELDS)[:3]],
        rename_fields={"asctime": "timestamp"} | _FIELDS,
        static_fields={"process.pid": os.getpid()},
    )


class _JsonLines(JsonFormatter):
    @override
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
