"""The report that is made of results, and what it says of targets that were missed."""

from benchmarks.report import ordered, report, verdicts
from benchmarks.results import Result, Target

FAST = Result(
    "reads",
    "Cached reads",
    [{"contender": "a", "requests/s": 31_234.5, "curve": [(50.0, 1.0)]}, {"contender": "b", "requests/s": None, "curve": []}],
    [Target("cached GET", "≥ 65%", "70% (69% to 71%)", passed=True), Target("the rest", "≥ 10×", "9×", passed=False)],
    ["a note"],
    "python -m benchmarks.contest.reads",
    "2026-01-01T00:00:00+00:00",
)
LATER = Result("zebra", "Something else", [], (), ["not run"], "python -m x", "2026-01-02T00:00:00+00:00")


def test_report_has_everything() -> None:
    """Machine, command, targets with their verdicts, tables and notes are in the report, in the report's order."""
    text = report({"zebra": LATER, "reads": FAST}, {"processor": "a thing"}, "make bench", ())
    for part in (
        "`make bench`, ended 2026-01-02",
        "| processor | a thing |",
        "| MISS | the rest |",
        "| a | 31,234 |",
        "- not run",
    ):
        assert part in text
    assert text.index("## Targets") < text.index("## Cached reads") < text.index("## Something else")
    assert [result.name for result in ordered({"zebra": LATER, "reads": FAST})] == ["reads", "zebra"]


def test_verdicts_say_what_was_missed() -> None:
    """Each target has a line that begins with pass or MISS."""
    assert [line.split()[0] for line in verdicts({"reads": FAST, "zebra": LATER}).splitlines()] == ["pass", "MISS"]
