"""A confidential value does not leave by accident."""

import copy
import json
import logging
import pickle

import pytest

from attestation.confidential import Confidential

CANARY = "canary-19c2"
VALUE = Confidential(CANARY)


@pytest.mark.parametrize(
    "spelling",
    [
        repr(VALUE),
        str(VALUE),
        f"{VALUE}",
        f"{VALUE!r:>40}",
        "%s" % VALUE,  # noqa: UP031 - how logging formats
        repr([VALUE]),
        repr({"prompt": VALUE}),
    ],
)
def test_no_spelling_shows_the_value(spelling):
    assert CANARY not in spelling


def test_it_is_not_pickled_copied_or_serialised():
    for attempt in (pickle.dumps, json.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(VALUE)


def test_it_is_not_compared_or_hashed():
    with pytest.raises(TypeError):
        _ = VALUE == CANARY
    with pytest.raises(TypeError):
        hash(VALUE)


def test_logging_it_shows_nothing(caplog):
    with caplog.at_level(logging.INFO):
        logging.getLogger("test").info("prompt %s", VALUE)
    assert CANARY not in caplog.text


def test_reveal_gives_it_back():
    assert VALUE.reveal() == CANARY
