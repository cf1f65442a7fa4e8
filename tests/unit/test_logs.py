"""The log formatter: what is written of a record, and what never is."""

import json
import logging

import pytest

from server.logs import ClosedFormatter


def written(name="tacit.api", msg="rejected", args=(), **extra):
    record = logging.LogRecord(name, logging.INFO, "/srv/server/onion.py", 72, msg, args, None)
    record.__dict__.update(extra)
    return json.loads(ClosedFormatter().format(record))


def test_an_event_of_ours_is_written_with_its_known_fields():
    line = written(request="r-1", code="field-invalid", status=400)
    assert line["event"] == "rejected"
    assert (line["request"], line["code"], line["status"]) == ("r-1", "field-invalid", 400)


@pytest.mark.parametrize("value", ["two words", "a" * 129, "ümlaut", b"bytes", ["list"], {"a": 1}])
def test_a_value_that_is_no_token_is_dropped(value):
    assert "code" not in written(code=value)


def test_an_unknown_field_is_dropped():
    assert "body" not in written(body="token")


@pytest.mark.parametrize("message", ["Bad request", "user said: hello", "a_b", "", 7])
def test_a_message_that_is_no_event_is_replaced_by_its_place(message):
    line = written(msg=message)
    assert "event" not in line
    assert line["place"] == "onion.py:72"


def test_the_words_of_a_library_are_replaced_by_their_place():
    line = written(name="aiohttp.client", msg="hello", code="x")
    assert line.keys() == {"at", "level", "logger", "place"}


def test_arguments_are_never_formatted():
    class Spy:
        def __str__(self):
            raise AssertionError("formatted")

    assert written(msg="event", args=(Spy(),))["event"] == "event"


def test_an_audit_event_keeps_its_attested_fields_alone():
    line = written(audit={"route": "/v1/models", "status": 200, "prompt": "token"})
    assert line["audit"] == {"route": "/v1/models", "status": 200}


def test_a_logger_that_only_begins_like_ours_is_not_ours():
    assert "event" not in written(name="tacitly", msg="event")
