"""Hostile bytes for every parser: a refusal or a value comes out, and nothing else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import ConfigError, Refusal
from tests.parsers import parsers


def ends_well(name, data):
    try:
        parsers()[name].read(data)
    except (Refusal, ConfigError):
        return False
    return True


@pytest.mark.parametrize("name", parsers())
def test_what_is_fuzzed_begins_with_what_is_accepted(name):
    assert ends_well(name, parsers()[name].seed)


@pytest.mark.parametrize("name", parsers())
@given(data=st.binary(max_size=2048))
@settings(max_examples=50)
def test_any_bytes_are_parsed_or_refused(name, data):
    ends_well(name, data)


@pytest.mark.parametrize("name", parsers())
@given(data=st.data())
@settings(max_examples=50)
def test_damaged_bytes_are_parsed_or_refused(name, data):
    whole = bytearray(parsers()[name].seed)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole)))
        whole[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    ends_well(name, bytes(whole))
