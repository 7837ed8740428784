import itertools

from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.scrub import Scrubber, mask, secrets_of

SECRETS = (b"sk_live_abcabcab", b"rfk_aaaaaaab", b"sk_live_")
TEXT = st.lists(
    st.sampled_from([*SECRETS, b"sk_", b"sk_live", b"abcabc", b"rfk_", b"aaaaaaaa", b"\n\n", b"x", b"s"]), max_size=20
).map(b"".join)


@given(text=TEXT, cuts=st.lists(st.integers(0, 200), max_size=12))
def test_however_a_text_is_cut_no_secret_gets_through_and_nothing_is_lost(text: bytes, cuts: list[int]) -> None:
    scrubber = Scrubber(SECRETS)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    out = b""
    for begin, end in itertools.pairwise(edges):
        out += scrubber.feed(text[begin:end])
        assert len(out) + len(scrubber._held) == end
        assert not any(secret in out for secret in SECRETS)
    out += scrubber.flush()
    assert len(out) == len(text)
    assert not any(secret in out for secret in SECRETS)
    assert all(was == now or now == ord("*") for was, now in zip(text, out, strict=True))


@given(text=st.binary(max_size=200))
def test_a_text_without_secrets_goes_on_as_it_came(text: bytes) -> None:
    scrubber = Scrubber((b"sk_live_abcabcab",))
    assert scrubber.feed(text) + scrubber.flush() == text


def test_only_what_could_be_a_secret_is_held_back() -> None:
    scrubber = Scrubber((b"sk_live_abcabcab",))
    assert scrubber.feed(b'data: {"a": 1}\n\n') == b'data: {"a": 1}\n\n'
    assert scrubber.feed(b"key sk_live_abc") == b"key "
    assert scrubber.feed(b"x") == b"sk_live_abcx"


def test_secrets_of_a_credential() -> None:
    assert secrets_of("") == ()
    assert secrets_of("sk_live_1") == (b"sk_live_1",)
    assert secrets_of("AC123:tokentoken") == (b"AC123:tokentoken", b"tokentoken")
    assert mask(b"xyz x:y", secrets_of("x:y")) == b"xyz x:y"
    assert mask(b"a sk_live_1234 b", secrets_of("sk_live_1234")) == b"a ************ b"
