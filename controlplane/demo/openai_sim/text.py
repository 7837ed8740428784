"""Tokens and text without a model: both are functions of the prompt alone.

The tokenizer is not OpenAI's, but behaves like it where a gateway must rely on it: every token covers at least
one byte of the text, so a count never exceeds the length in UTF-8 bytes; and text made here counts, when read
back, exactly the tokens that were billed for making it.
"""

import hashlib
import re

# Words of up to eight letters with the space before them, numbers by three digits, any other character alone.
_TOKEN = re.compile(r" ?[^\W\d_]{1,8}|\d{1,3}| ?[^\w\s]|_|\s")

# Each piece is exactly one token; some are not ASCII, so that streams have characters to be split in.
_PIECES = (
    " the", " agent", " has", " paid", " within", " its", " limit", " today", ",", " and", " each", " request",
    " was", " checked", " before", " it", " left", ".", " Café", " costs", " stay", " below", " naïve", " plans",
    " while", " teams", " review", " every", " call", " —", " über", " safely", " until", " reports", " agree",
    ".", " Budgets", " hold", " because", " money", " is", " counted", " twice", ",", " never", " lost", " 数",
    " again", " when", " vendors", " answer", " late", ".", " Owners", " see", " who", " spent", " what", " …",
    " where", " why", " or", " not", " yet",
)  # fmt: skip


def count_tokens(text: str) -> int:
    return len(_TOKEN.findall(text))


def compose(digest: bytes, tokens: int) -> list[str]:
    """Text of exactly `tokens` tokens, as its pieces, determined by `digest`."""
    pieces = [_PIECES[byte % len(_PIECES)] for byte in hashlib.shake_256(digest).digest(tokens)]
    if pieces:
        pieces[0] = "Yes"  # no leading space
    return pieces


def cut_at_stop(pieces: list[str], stops: list[str]) -> tuple[list[str], bool]:
    """The pieces up to the first of `stops` (which is not shown), and whether there was one."""
    text = "".join(pieces)
    found = [position for stop in stops if (position := text.find(stop)) >= 0]
    if not found:
        return pieces, False
    left, kept = min(found), []
    for piece in pieces:
        if left <= 0:
            break
        kept.append(piece[:left])
        left -= len(piece)
    return kept, True
