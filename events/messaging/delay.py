"""Calls later, in the running loop, for the transports in memory."""

import asyncio
import contextvars
import math
from collections.abc import Callable


def later(delay_s: float, call: Callable[[], None]) -> None:
    """Call `call` after `delay_s`; 0 keeps the order of the calls, infinity means never.

    Never within the caller's own step: even the fastest network answers afterwards. And outside the caller's
    context: what has been sent belongs to its sender no more, so a simulation that marks a process by its
    context can stop or kill the process without stopping what is on its way.
    """
    loop = asyncio.get_running_loop()
    if delay_s <= 0:
        loop.call_soon(call, context=contextvars.Context())
    elif delay_s < math.inf:
        loop.call_later(delay_s, call, context=contextvars.Context())
