"""Log records inside vLLM: literals, numbers and type names, whatever a library logs."""

import logging
from collections.abc import Iterator

import pytest
from tacit_vllm import quiet

CANARY = "canary-7f3a"
log = logging.getLogger("vllm.test_plugin_quiet")


@pytest.fixture(autouse=True)
def quiet_records() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    quiet.install()
    yield
    logging.setLogRecordFactory(before)


def said(caplog: pytest.LogCaptureFixture) -> str:
    assert CANARY not in caplog.text
    (record,) = caplog.records
    assert CANARY not in repr(record.__dict__)
    return record.getMessage()


def test_a_literal_and_its_numbers_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    log.warning("loading took %.1f seconds for %d shards", 1.25, 3)
    assert said(caplog) == "loading took 1.2 seconds for 3 shards"


def test_text_arguments_become_their_type(caplog: pytest.LogCaptureFixture) -> None:
    log.error("no model %s in %s", CANARY, [CANARY])
    assert said(caplog) == "no model <str> in <list>"


def test_a_mapping_of_arguments_is_replaced_value_by_value(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log.error("%(who)s asked %(count)d", {"who": CANARY, "count": 2})
    assert said(caplog) == "<str> asked 2"


def test_an_f_string_is_not_a_literal(caplog: pytest.LogCaptureFixture) -> None:
    log.error(f"failed on {CANARY}")  # noqa: G004
    assert said(caplog) == "<str>"


def test_a_message_from_elsewhere_is_not_a_literal(caplog: pytest.LogCaptureFixture) -> None:
    for message in [CANARY + " %s"]:
        log.error(message, 1)
    assert "<str>" in said(caplog)


def test_a_template_that_does_not_fit_its_arguments_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log.error("%d of %d", CANARY, 1)
    assert said(caplog) == "%d of %d <2 arguments>"


def test_a_traceback_becomes_the_name_of_its_exception(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError(CANARY)
    except ValueError:
        log.exception("request failed")
    assert said(caplog) == "request failed [ValueError]"
    assert caplog.records[0].exc_info is None


def test_an_exception_as_the_message_becomes_its_type(caplog: pytest.LogCaptureFixture) -> None:
    log.error(ValueError(CANARY))
    assert said(caplog) == "<ValueError>"


def test_installing_twice_changes_nothing() -> None:
    before = logging.getLogRecordFactory()
    quiet.install()
    assert logging.getLogRecordFactory() is before
