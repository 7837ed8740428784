"""Whatever is accepted means one thing: a server that decodes and normalises it finds the same segments."""

import posixpath
from urllib.parse import unquote

from hypothesis import example, given
from hypothesis import strategies as st

from dataplane.core.path import Target, parse_target

ENCODED = ["%2e", "%2E", "%2f", "%2F", "%5C", "%25", "%00", "%C3%A9", "%C0%AF", "%40", "%3A", "%", "%4"]
PLAIN = [
    "/",
    "//",
    ".",
    "..",
    "a",
    "Z",
    "b.c",
    "~",
    ":",
    "@",
    "!",
    "*",
    "+",
    ",",
    ";",
    "#",
    "?",
    "&",
    "=",
    "\\",
    "-",
    "é",
]
PIECES = st.sampled_from([*ENCODED, *PLAIN, " ", "\x00", "\t"])
TARGETS = st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=30)


@given(TARGETS.map(lambda text: "/" + text))
@example("/a/%2E%2E/b")
@example("/%2e")
def test_an_accepted_path_survives_decoding_and_normalising(raw: str) -> None:
    target = parse_target(raw)
    if not isinstance(target, Target):
        return
    decoded = unquote(target.path, errors="strict")
    without_slash = decoded.rstrip("/") if target.slash else decoded
    assert posixpath.normpath(decoded) == without_slash
    assert decoded.count("/") == target.path.count("/")
    assert [unquote(segment) for segment in target.segments] == without_slash[1:].split("/")
    assert unquote(decoded) == decoded, "decoding twice must find nothing more"
    assert not set(decoded) & set("\\;#?")
    assert all(character >= " " and character != "\x7f" for character in decoded)


@given(TARGETS)
def test_what_is_accepted_is_kept_byte_for_byte(raw: str) -> None:
    target = parse_target(raw)
    if isinstance(target, Target):
        assert raw in {f"{target.path}?{target.query}", target.path}
        assert raw.isascii()
