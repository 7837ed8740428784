"""Server-sent events, cut out of a byte stream as they end, however the chunks fall.

An event ends with an empty line; lines end with LF, CRLF or CR, mixed as the vendor likes (WHATWG HTML, 9.2).
Bytes are never changed or dropped: what `feed` returned, joined, plus `rest`, is what came in. A CR that ends a
chunk may have its LF in the next; the event then ends at the CR and the LF opens the next event as an empty line,
which means nothing to a reader.
"""

import re
from typing import Final

MAX_EVENT_BYTES: Final = 256 * 1024
"""A chunk of an LLM's stream has a few hundred bytes; the longest (tool calls, log probabilities) some tens of KB.
A longer event is passed on in pieces, unread, rather than held in memory."""

_END: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n))")
_LOOK_BACK: Final = 3
"""The longest part of an event's end (CRLF CRLF) that a chunk may cut off, less one byte."""


class SseSplitter:
    """Holds the bytes of at most one unfinished event."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that this chunk completes, each with its end; pieces of one that is too long to hold."""
        held = self._held
        if not held and chunk.endswith(b"\n\n") and chunk.find(b"\r") < 0 and chunk.find(b"\n\n") == len(chunk) - 2:
            return [chunk]
        start = max(0, len(held) - _LOOK_BACK)
        held += chunk
        events = []
        done = 0
        for end in _END.finditer(held, start):
            events.append(bytes(held[done : end.end()]))
            done = end.end()
        if done:
            del held[:done]
        if len(held) > MAX_EVENT_BYTES:
            events.append(bytes(held))
            held.clear()
        return events

    def rest(self) -> bytes:
        """The unfinished event, given up: nothing is held afterwards."""
        rest = bytes(self._held)
        self._held.clear()
        return rest


def event_data(event: bytes) -> bytes:
    """The data of one event: its `data:` lines joined by LF; b"" if it has none (a comment, a bare id)."""
    if event.startswith(b"data: "):
        line = event[6:].rstrip(b"\r\n")
        if b"\n" not in line and b"\r" not in line:
            return line
    lines = []
    for line in event.removeprefix(b"\xef\xbb\xbf").splitlines():
        if line.startswith(b"data:"):
            lines.append(line[6:] if line.startswith(b"data: ") else line[5:])
        elif line == b"data":
            lines.append(b"")
    return b"\n".join(lines)
