"""X-Agent-Identity has one reading, or none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.identity import Identity, IdentityError, format_identity, parse_identity

GOOD = {
    "name=bot": Identity("bot"),
    "name=bot; owner=finance; purpose=monthly invoices": Identity("bot", "finance", "monthly invoices"),
    "owner=finance;name=bot": Identity("bot", "finance"),
}


@pytest.mark.parametrize(("header", "identity"), GOOD.items())
def test_good_headers(header: str, identity: Identity) -> None:
    assert parse_identity(header) == identity


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bot",
        "name=",
        "name=bot; name=bot",
        "owner=finance",
        "name=bot;",
        "Name=bot",
        "name=bot; role=admin",
        'name="bot"',
        "name=bot\r\nx: y",
        "name=bo t",
        "name=bot, owner=x",
        "name=bot; owner=a:b",
        "name=" + "b" * 600,
        "name=böt",
        "name =bot",
        "name= bot",
    ],
)
def test_bad_headers(header: str) -> None:
    with pytest.raises(IdentityError):
        parse_identity(header)


@given(st.text(max_size=80))
def test_any_text_is_refused_or_reads_back(header: str) -> None:
    try:
        identity = parse_identity(header)
    except IdentityError:
        return
    assert parse_identity(format_identity(identity)) == identity
