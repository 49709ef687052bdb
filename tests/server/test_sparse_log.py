"""The log for events that clients cause."""

import logging

import pytest

from app.sparse_log import SparseLog


def test_one_line_a_second_with_a_count_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """However many there are; the next line says how many were left out, once."""
    now = 100.0
    log = SparseLog(logging.getLogger("larder.test"), lambda: now)
    with caplog.at_level(logging.INFO):
        for step in range(250):
            now = 100.0 + step / 100
            log.info("refused %r", f"step {step}\n")
        now += 1
        log.info("refused %r", "last")
    assert caplog.messages == [
        r"refused 'step 0\n'",
        r"refused 'step 100\n' (99 similar lines left out)",
        r"refused 'step 200\n' (99 similar lines left out)",
        "refused 'last' (49 similar lines left out)",
    ]
