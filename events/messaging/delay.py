"""Calls later, in the running loop, for the transports in memory."""

import asyncio
import math
from collections.abc import Callable


def later(delay_s: float, call: Callable[[], None]) -> None:
    """Call `call` after `delay_s`; 0 keeps the order of the calls, infinity means never.

    Never within the caller's own step: even the fastest network answers afterwards.
    """
    loop = asyncio.get_running_loop()
    if delay_s <= 0:
        loop.call_soon(call)
    elif delay_s < math.inf:
        loop.call_later(delay_s, call)
