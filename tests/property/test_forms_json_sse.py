"""Strict readers against the standard library's lenient ones, and streams against every way to cut them."""

import itertools
import json
from typing import Any
from urllib.parse import parse_qsl, urlencode

from hypothesis import given
from hypothesis import strategies as st

from dataplane.adapters.forms import parse_form
from dataplane.adapters.splice import add_member, replace_member
from dataplane.adapters.sse import SseSplitter, event_data
from dataplane.adapters.strict import Malformed, _parse_closely, parse_json_object

NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4))
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=6)


@given(st.dictionaries(NAMES, TEXTS, max_size=8))
def test_an_encoded_form_reads_back(fields: dict[str, str]) -> None:
    assert parse_form(urlencode(fields).encode()) == fields


@given(st.binary(max_size=60) | st.text("ab=&;%[]+041 ", max_size=40).map(str.encode))
def test_a_form_that_is_accepted_means_the_same_to_a_lenient_parser(body: bytes) -> None:
    found = parse_form(body)
    if isinstance(found, Malformed):
        return
    lenient = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body))
    ours = [(name, item) for name, value in found.items() for item in (value if isinstance(value, list) else [value])]
    assert sorted(ours) == sorted(lenient)
    scalars = {name for name in found if not name.endswith("[]")}
    assert len(scalars) == sum(1 for name, _ in lenient if not name.endswith("[]"))


@given(OBJECTS)
def test_json_reads_as_written(value: dict[str, Any]) -> None:
    assert parse_json_object(json.dumps(value).encode()) == value


@given(OBJECTS, NAMES, VALUES, VALUES)
def test_a_doubled_name_is_found_at_any_depth(value: dict[str, Any], name: str, first: Any, second: Any) -> None:
    doubled = f'{{"{name}":{json.dumps(first)},"{name}":{json.dumps(second)}}}'
    assert isinstance(parse_json_object(doubled.encode()), Malformed)
    deep = json.dumps({**value, "deep": ["HERE"]}).replace('"HERE"', doubled)
    assert isinstance(parse_json_object(deep.encode()), Malformed)


@given(st.binary(max_size=40) | st.text('{}[]",:0123ntf \\u', max_size=40).map(str.encode))
def test_json_that_is_accepted_means_the_same_to_a_lenient_parser(body: bytes) -> None:
    found = parse_json_object(body)
    if not isinstance(found, Malformed):
        assert json.loads(body) == found


BLANK = st.sampled_from(["", "", "", " ", "\n", "\t", "\r"])
NAME = st.sampled_from(['"a"', '"b"', '"\\u0061"', '":"', '"a\\":"', '"a :"', '""'])
NUMBER = st.sampled_from(
    ["0", "-0", "1.0", "1e400", "-1e-400", "123456789012345678901", "1E5", "01", "NaN", "-Infinity"]
)
LEAF = NUMBER | NAME | st.sampled_from(["true", "null", '"\\ud800"', '"://"', '" :"', '"\\\\"', "tru", '"', "\u00e9"])


def _written(members: list[tuple[str, str, str, str]]) -> str:
    return "{" + ",".join(f"{name}{before}:{after}{value}" for name, before, after, value in members) + "}"


WRITTEN = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(st.tuples(NAME, BLANK, BLANK, inner), max_size=4).map(_written)
        | st.lists(inner, max_size=3).map(lambda items: "[" + ",".join(items) + "]")
    ),
    max_leaves=12,
)


@given(st.lists(st.tuples(NAME, BLANK, BLANK, WRITTEN), max_size=4).map(_written), BLANK)
def test_the_quick_way_reads_json_as_the_close_one_does(text: str, end: str) -> None:
    """Names that stand twice, in whatever spelling, colons in texts, blanks before colons, doubtful values."""
    body = (text + end).encode()
    quick, close = parse_json_object(body), _parse_closely(body)
    assert repr(quick) == repr(close), "the same values, of the same types"


@given(OBJECTS.filter(bool), VALUES, st.sampled_from([None, 1, " "]), st.booleans())
def test_a_spliced_member_changes_that_member_alone(value: dict[str, Any], new: Any, indent: Any, escape: bool) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=escape).encode()
    for name in value:
        changed = replace_member(body, name, new)
        assert json.loads(changed) == {**value, name: new}
        assert list(json.loads(changed)) == list(value)
    if "added" not in value:
        added = add_member(body, b'"added":' + json.dumps(new).encode())
        assert json.loads(added) == {"added": new, **value}
        assert added.replace(b'"added":' + json.dumps(new).encode() + b",", b"", 1) == body


EVENTS = st.lists(
    st.lists(
        st.sampled_from([b"data: x", b"data:", b"data: \xc3\xa9", b": note", b"event: e", b"id: 7"]),
        min_size=1,
        max_size=4,
    ),
    max_size=6,
)
ENDINGS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(
    EVENTS,
    st.lists(ENDINGS, min_size=40, max_size=40),
    st.lists(st.integers(0, 400), max_size=12),
    st.binary(max_size=9),
)
def test_events_come_out_whole_however_the_stream_is_cut(
    events: list[list[bytes]], endings: list[bytes], cuts: list[int], tail: bytes
) -> None:
    lines = iter(endings)
    stream = b"".join(b"".join(line + next(lines) for line in event) + next(lines) for event in events)
    stream += tail.translate(None, b"\r\n")
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    splitter = SseSplitter()
    out = [piece for a, b in itertools.pairwise(edges) for piece in splitter.feed(stream[a:b])]
    assert b"".join(out) + splitter.rest() == stream
    assert [data for piece in out if (data := event_data(piece))] == said(stream)


def said(stream: bytes) -> list[bytes]:
    """What a reader of the whole stream hears: the data of each event that its empty line ended."""
    heard, data = [], []
    *lines, _ = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    for line in lines:
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line:
            heard.append(b"\n".join(data))
            data = []
    return [text for text in heard if text]
