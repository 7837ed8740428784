"""Opening and closing the fences of nodes and control planes: single messages that must get there.

A fence message is sent under one id until it is acknowledged. The id holds a secret, because ids are compared over
the whole stream, and a node that could guess one might let a fence vanish as a duplicate.
"""

import asyncio
import contextlib
from collections.abc import Callable

from events.codec import encode_batch
from events.log.port import AppendUncertain, FenceExpectation, FenceMoved, LogUnavailable, StreamPort
from events.types import Fenced, FenceOpened

PUBLISH_TIMEOUT_S = 0.5
RETRY_PAUSE_S = 0.02
RETRY_PAUSE_MAX_S = 0.2


class Fences:
    """Writes to fence subjects in the name of one control plane. `draw` gives random bytes."""

    def __init__(self, name: str, draw: Callable[[int], bytes], wall_ns: Callable[[], int]) -> None:
        self._name = name
        self._draw = draw
        self._wall_ns = wall_ns

    async def write(
        self, port: StreamPort, subject: str, event: FenceOpened | Fenced, expect: FenceExpectation | None = None
    ) -> int:
        """Store the message; return its sequence. Tries until it is stored.

        `expect`: only if the subject ends there. Raises FenceMoved if it does not, and the message is not stored.
        """
        payload = encode_batch(self._name, 0, self._wall_ns(), (event,))
        msg_id = f"{event.actor}.{self._draw(12).hex()}"
        pause_s = RETRY_PAUSE_S
        while True:
            try:
                ack = await port.publish(subject, payload, msg_id=msg_id, expect=expect, timeout_s=PUBLISH_TIMEOUT_S)
            except AppendUncertain:
                pass
            except FenceMoved:
                # It may have been moved by this very message, whose acknowledgement was lost.
                with contextlib.suppress(LogUnavailable):
                    newest = await port.last_on_subject(subject)
                    if newest is None or newest.payload != payload:
                        raise
                    return newest.sequence
            else:
                return ack.sequence
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_PAUSE_MAX_S)
