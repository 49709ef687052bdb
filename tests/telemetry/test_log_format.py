"""The log's format: JSON unless somebody reads it on a terminal."""

import json
import logging
import os
import pty
import subprocess
import sys

import pytest

from app.telemetry.log_format import json_lines

_PROGRAM = """
import logging
from app.telemetry.log_format import log_to_stderr
log_to_stderr({form!r})
logging.getLogger("larder").warning("the %s is low", "stock")
logging.getLogger("httpx").info("routine")
"""


def _logged(form: str, *, on_terminal: bool = False) -> str:
    """What a process of its own logs with that setting, to a pipe or to a terminal."""
    program = [sys.executable, "-c", _PROGRAM.format(form=form)]
    if not on_terminal:
        return subprocess.run(program, stderr=subprocess.PIPE, check=True, text=True).stderr
    ours, theirs = pty.openpty()
    try:
        subprocess.run(program, stderr=theirs, check=True)
        return os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(
    ("form", "on_terminal", "is_json"),
    [("auto", False, True), ("auto", True, False), ("json", True, True), ("text", False, False)],
)
def test_form(form: str, *, on_terminal: bool, is_json: bool) -> None:
    """``auto`` looks at stderr; the other two do not. What libraries report as routine is left out."""
    [line] = _logged(form, on_terminal=on_terminal).splitlines()
    if is_json:
        said = json.loads(line)
        assert (said["severity_text"], said["otel.scope.name"], said["body"]) == ("WARNING", "larder", "the stock is low")
    else:
        assert line.endswith("WARNING larder: the stock is low")


def test_a_record_is_one_line_of_json() -> None:
    """One line for a record, whatever is in it: the time in UTC, extra fields beside the body, a traceback as a text."""
    try:
        raise ValueError("first\nsecond")  # noqa: TRY301 - a traceback is wanted
    except ValueError:
        record = logging.makeLogRecord(
            {"name": "larder", "levelname": "ERROR", "msg": "a\nb", "created": 1769850300.5, "exc_info": sys.exc_info()}
            | {"http.response.status_code": 503}
        )
    line = json_lines().format(record)
    assert "\n" not in line
    said = json.loads(line)
    assert said["exception.stacktrace"].endswith("ValueError: first\nsecond")
    del said["exception.stacktrace"]
    assert said == {
        "timestamp": "2026-01-31T09:05:00.500Z",
        "severity_text": "ERROR",
        "otel.scope.name": "larder",
        "body": "a\nb",
        "process.pid": os.getpid(),
        "http.response.status_code": 503,
    }
