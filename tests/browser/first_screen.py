"""What an operator sees of the dashboard without scrolling, and the questions that it must answer."""

import re
from collections.abc import Mapping

from tests.browser.chromium import Page

WIDTH, HEIGHT = 1280, 800
DURING: Mapping[str, str] = {
    "Is anything stale?": r"nothing is stale",
    "Since when is what away?": r"Redis away since \d\d:\d\d:\d\d",
    "What do I do?": r"What to do: Look at the Redis server",
    "Who is refused?": r"Callers refused: (?:[\d.]+/s )?host-not-allowed",
}
"""The answers while Redis is away and somebody uses a wrong name for the service."""
AFTER: Mapping[str, str] = {
    "Is anything stale?": r"All is well; nothing is stale",
    "Is it over?": r"over since \d\d:\d\d:\d\d: .*Redis away \(\d+ s\)",
    "Who is refused?": r"Callers refused: nobody",
}
"""The answers when Redis is back."""
_SEEN = """[...document.querySelectorAll('h1, h2, p, #lamps div')].filter(part => {
  const place = part.getBoundingClientRect();
  return place.height > 1 && place.top >= 0 && place.bottom <= innerHeight;
}).map(part => [...part.children].some(child => child.tagName === 'DT')
  ? [...part.children].map(child => child.textContent).join(': ') : part.textContent).join('\\n')"""


async def answer_at_a_glance(page: Page, answers: Mapping[str, str], settled: str) -> None:
    """Assert that each of these questions is answered by what is on the screen as a whole, once a condition is true."""
    await page.until(settled)
    await page.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False)
    await page.evaluate("scrollTo(0, 0)")
    seen: str = await page.evaluate(_SEEN)
    assert [question for question, answer in answers.items() if not re.search(answer, seen)] == [], seen
