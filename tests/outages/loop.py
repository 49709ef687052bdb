"""The event loop of the commands here: the faster one, where it is to be had."""

import asyncio


def new_loop() -> asyncio.AbstractEventLoop:
    """Make a loop."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415 - absent on systems that it is not made for
    except ImportError:
        return asyncio.new_event_loop()
    return new_event_loop()
