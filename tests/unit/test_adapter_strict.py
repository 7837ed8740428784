"""Bodies that two parsers could read in two ways are malformed; all others keep their one meaning."""

import json

import pytest

from dataplane.adapters.forms import MAX_FIELDS, parse_form
from dataplane.adapters.splice import add_member, replace_member
from dataplane.adapters.sse import MAX_EVENT_BYTES, SseSplitter, event_data
from dataplane.adapters.strict import Malformed, parse_json_object


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"", {}),
        (b"amount=1099&currency=usd", {"amount": "1099", "currency": "usd"}),
        (b"description=a+b%20c%26d&empty=", {"description": "a b c&d", "empty": ""}),
        (b"%61mount=5", {"amount": "5"}),  # an escaped name is that name
        (b"metadata[order id]=7&metadata%5Bx%5D=8", {"metadata[order id]": "7", "metadata[x]": "8"}),
        (b"expand[]=a&expand[]=b", {"expand[]": ["a", "b"]}),
        (b"items[0][price]=p&items[1][price]=q", {"items[0][price]": "p", "items[1][price]": "q"}),
        ("name=Größe".encode(), {"name": "Größe"}),
        (b"name=Gr%C3%B6%C3%9Fe", {"name": "Größe"}),
    ],
)
def test_forms_with_one_meaning(body: bytes, fields: dict[str, object]) -> None:
    assert parse_form(body) == fields


@pytest.mark.parametrize(
    "body",
    [
        b"amount=1&amount=99999",
        b"amount=1&%61mount=99999",
        b"amount=1&amount[]=2",
        b"amount[]=2&amount=1",
        b"amount=1&amount[x]=2",
        b"amount[x][y]=2&amount[x]=1",
        b"a[]=1&a[0]=2",
        b"a[b]=1&a[]=2",
        b"a[][b]=1",
        b"a[b]=1&a[b]=2",
        b"amount=1;amount=2",
        b"amount",
        b"amount=1&",
        b"&amount=1",
        b"=1",
        b"[amount]=1",
        b"amount]=1",
        b"amount[=1",
        b"a[b]c=1",
        b"a[[b]]=1",
        b" amount=1",
        b"amount =1",
        b"am\xc3\xb6unt=1",
        b"amount=%zz",
        b"amount=%4",
        b"amount=%ff",
        b"amount=\xff",
        b"amount=1%00",
        b"amount=1\x00",
        b"a%00=1",
        b"a[b%0A]=1",
        b"a" + b"[b]" * 9 + b"=1",
        b"&".join(b"f%d=1" % n for n in range(MAX_FIELDS + 1)),
    ],
)
def test_forms_that_could_be_read_in_two_ways(body: bytes) -> None:
    found = parse_form(body)
    assert isinstance(found, Malformed)
    assert "99999" not in found.reason


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[1]",
        b'"text"',
        b'{"n":1,"n":128}',
        b'{"n":1,"\\u006e":128}',
        b'{"a":[{"b":{"c":1,"c":2}}]}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1}{"a":2}',
        b'{"a":1,}',
        b"{'a':1}",
        b'{"a":01}',
        b'{"a":"\n"}',
        b'{"a":1}\x00',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":"\xff"}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":' + b"[" * 100_000,
    ],
)
def test_json_that_is_refused(body: bytes) -> None:
    assert isinstance(parse_json_object(body), Malformed)


def test_json_keeps_its_values() -> None:
    assert parse_json_object(b' {"a": [1, 1.5, null, true, "\\u00e9"], "A": {}} ') == {
        "a": [1, 1.5, None, True, "é"],
        "A": {},
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"o":null,"x":1.50}', b'{"o":{"u":true},"x":1.50}'),
        (b'{ "x" : [1, {"o": 2}] , "o" : {"k": "}"} }', b'{ "x" : [1, {"o": 2}] , "o" : {"u":true} }'),
        (b'{"s":"\\"o\\":1","\\u006f":[1,[2],{"a":","}]}', b'{"s":"\\"o\\":1","\\u006f":{"u":true}}'),
        (b'{"o":"o","p":"o"}', b'{"o":{"u":true},"p":"o"}'),
        (b'{"p":"o","o":-1e-5}', b'{"p":"o","o":{"u":true}}'),
    ],
)
def test_a_member_is_replaced_in_its_place(before: bytes, after: bytes) -> None:
    assert replace_member(before, "o", {"u": True}) == after


def test_a_member_is_added_first_and_nothing_else_moves() -> None:
    assert add_member(b' {\n "m": 1.0e2}', b'"o":1') == b' {"o":1,\n "m": 1.0e2}'
    with pytest.raises(ValueError, match="o"):
        replace_member(b'{"m":{"o":1}}', "o", 1)


@pytest.mark.parametrize(
    "stream",
    [
        b"data: 1\n\ndata: 2\n\n: comment\n\ndata: [DONE]\n\n",
        b"data: 1\r\n\r\ndata: 2\r\n\r\n: comment\r\n\r\ndata: [DONE]\r\n\r\n",
        b"data: 1\r\rdata: 2\r\r: comment\r\rdata: [DONE]\r\r",
        b"data: 1\n\r\ndata: 2\r\n\n: comment\r\n\rdata: [DONE]\n\n",
    ],
)
def test_events_end_with_an_empty_line_of_any_kind(stream: bytes) -> None:
    for size in (1, 2, 3, 5, 7, len(stream)):
        splitter = SseSplitter()
        events = [
            event for at in range(0, len(stream), size) for event in splitter.feed(stream[at : at + size]) if event
        ]
        assert b"".join(events) + splitter.rest() == stream
        said = [data for event in events if (data := event_data(event))]
        assert said == [b"1", b"2", b"[DONE]"]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\n\n", b"a"),
        (b"data:  a\n\n", b" a"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"event: x\r\nid: 1\r\ndata: {\r\ndata: }\r\n\r\n", b"{\n}"),
        (b"\xef\xbb\xbfdata: a\n\n", b"a"),
        (b"data\n\n", b""),
        (b": data: a\n\n", b""),
        (b"datax: a\n\n", b""),
        ("data: é\n\n".encode(), "é".encode()),
    ],
)
def test_event_data(event: bytes, data: bytes) -> None:
    assert event_data(event) == data


def test_an_event_too_long_to_hold_is_passed_on_unread() -> None:
    splitter = SseSplitter()
    long = b"data: " + json.dumps("x" * MAX_EVENT_BYTES * 2).encode() + b"\n\n"
    out = [piece for at in range(0, len(long), 50_000) for piece in splitter.feed(long[at : at + 50_000])]
    assert len(out) > 1
    assert b"".join(out) == long
    assert max(map(len, out)) <= MAX_EVENT_BYTES + 50_000
    assert splitter.feed(b"data: next\n\n") == [b"data: next\n\n"]
