"""The codec accepts one spelling of a document and refuses the rest without quoting it."""

import json

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from attestation.codec import (
    Document,
    canonical_json,
    length_prefixed,
    parse_document,
    parse_json,
    parse_yaml,
    unb64,
    unb64url,
    unhex,
)
from attestation.errors import ConfigError, Malformed

CANARY = "canary-7f3a"


class Pair(Document):
    left: int
    right: str


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON)
def test_canonical_json_is_rfc_8785(value):
    try:
        expected = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        return
    assert canonical_json(value) == expected


@given(JSON)
def test_canonical_json_is_a_fixed_point(value):
    try:
        once = canonical_json(value)
    except UnicodeEncodeError:
        return
    assert canonical_json(parse_json(once)) == once


@pytest.mark.parametrize("value", [1.5, {1: 2}, {"é": 1}, object(), b"x"])
def test_what_has_no_canonical_form_is_a_programming_error(value):
    with pytest.raises(TypeError):
        canonical_json(value)


@pytest.mark.parametrize(
    "text",
    [
        b'{"left":1,"right":"a","right":"b"}',
        b'{"left":NaN,"right":"a"}',
        b'{"left":1,"right":"a"} {}',
        b"\xff\xfe",
        b'{"left":1,"right":"a","r\\u0069ght":"b"}',
        b'{"left":1,"right":"\\ud800"}',
        b'{"left":1,"right":"a\n"}',
        b"[" * 100_000,
        b"",
    ],
)
def test_a_document_json_does_not_allow_is_malformed(text):
    with pytest.raises(Malformed):
        parse_document(Pair, text)


@pytest.mark.parametrize(
    "value",
    [
        {"left": CANARY, "right": "a"},
        {"left": 1, "right": "a", CANARY: 1},
        {"left": "1", "right": CANARY},
        {"left": True, "right": CANARY},
        [CANARY],
        CANARY,
    ],
)
def test_a_refusal_names_the_field_and_never_the_value(value):
    with pytest.raises(Malformed) as refused:
        parse_document(Pair, json.dumps(value).encode())
    assert CANARY not in str(refused.value)
    assert CANARY not in repr(refused.value.__cause__)


def test_an_oversize_document_is_refused_before_it_is_parsed():
    with pytest.raises(Malformed) as refused:
        parse_document(Pair, b" " * 101, limit=100)
    assert refused.value.code == "too-large"


@pytest.mark.parametrize(
    "text",
    [
        b"left: 1\nleft: 2\nright: a\n",
        b"left: 1\nright: a\nextra: b\n",
        b"left: '1'\nright: a\n",
        b"left: 1\nright: 2026-01-01\nmore: [",
        b"left: 1\nright: !!python/object:os.system a\n",
        b"1: a\n",
        b"left: &a 1\n<<: {right: a}\n",
        b"\x00",
    ],
)
def test_yaml_that_could_be_read_two_ways_is_refused(text):
    with pytest.raises(ConfigError):
        parse_yaml(Pair, text, name="pair.yaml")


def test_yaml_keeps_a_date_as_text():
    assert parse_yaml(Pair, b"left: 1\nright: 2026-01-01\n", name="p").right == "2026-01-01"


@given(st.lists(st.binary(max_size=9), max_size=4), st.lists(st.binary(max_size=9), max_size=4))
def test_length_prefixes_never_collide(left, right):
    assert (length_prefixed(*left) == length_prefixed(*right)) == (left == right)


@pytest.mark.parametrize("text", ["QQ=", "QR==", "QQ", "Q Q=", "QQ==\n", "é"])
def test_base64_has_one_spelling(text):
    assert unb64("QQ==", what="field") == b"A"
    with pytest.raises(Malformed):
        unb64(text, what="field")


@pytest.mark.parametrize("text", ["QQ==", "QR", "+w", "Q"])
def test_base64url_has_one_spelling(text):
    assert unb64url("QQ", what="field") == b"A"
    with pytest.raises(Malformed):
        unb64url(text, what="field")


@pytest.mark.parametrize("text", ["", "0g" * 2, "00", "000000"])
def test_hex_has_exactly_the_size_asked_for(text):
    assert unhex("00ff", size=2, what="field") == b"\x00\xff"
    with pytest.raises(Malformed):
        unhex(text, size=2, what="field")
