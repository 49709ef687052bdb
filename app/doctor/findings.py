"""What a check found, and how checks are run within one deadline."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

Check = Callable[[], Awaitable[Sequence["Finding"]]]
"""Returns at least one finding. It may raise anything; then nothing is known."""


class Verdict(StrEnum):
    """The answer of a check."""

    OK = "ok"
    NO = "no"
    UNKNOWN = "?"


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer of a check, and a sentence: what was found, or what follows from it and what to do.

    ``needed`` is false for advice: Larder works all the same.
    """

    check: str
    verdict: Verdict
    sentence: str
    needed: bool = True


def ok(check: str, sentence: str) -> Finding:
    """Return the finding that a check holds."""
    return Finding(check, Verdict.OK, sentence)


def no(check: str, sentence: str, *, needed: bool = True) -> Finding:
    """Return the finding that a check does not hold."""
    return Finding(check, Verdict.NO, sentence, needed)


def unknown(check: str, sentence: str) -> Finding:
    """Return the finding that a check could not be made."""
    return Finding(check, Verdict.UNKNOWN, sentence)


async def found_by(checks: Sequence[tuple[str, Check]], deadline_s: float) -> AsyncIterator[Finding]:
    """Run the checks one after another and yield what each found. After the deadline the rest is unknown."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    for name, check in checks:
        try:
            async with asyncio.timeout_at(end):
                found = await check()
        except TimeoutError:
            found = [unknown(name, f"was not answered within {deadline_s:g} s")]
        except Exception as error:  # noqa: BLE001 - whatever a check meets is what it found
            found = [unknown(name, f"could not be asked: {str(error).strip() or type(error).__name__}")]
        for one in found:
            yield one


def status_of(findings: Sequence[Finding]) -> int:
    """Return the exit status: 0 if all that is needed holds, 1 if something does not, 2 if something could not be asked."""
    if any(one.verdict is Verdict.NO and one.needed for one in findings):
        return 1
    return 2 if any(one.verdict is Verdict.UNKNOWN and one.needed for one in findings) else 0
