"""A deployment is measured once per boot of the TD, whatever restarts in it."""

import pytest

from attestation.errors import ConfigError, Undecidable
from attestation.simulator.tsm import request_boot
from attestation.tdx.collect import TdxGuest
from attestation.tdx.eventlog import EventLog, RuntimeEvent
from attestation.types import Digest
from server.measure import JOURNAL, measure, runtime_events
from tests.simulated_tdx import kernel_of, serving

CONFIG = Digest.sha256(b"configuration")
MODELS = {"b-model": Digest.sha256(b"b"), "a-model": Digest.sha256(b"a")}
WANTED = runtime_events(CONFIG, MODELS)


@pytest.fixture
def guest(tmp_path):
    with serving(kernel_of(tmp_path / "tdx")):
        (tmp_path / "run").mkdir()
        yield lambda: TdxGuest.insecure_simulated(tmp_path / "tdx", timeout_s=5)


def logged(guest: TdxGuest) -> tuple[RuntimeEvent, ...]:
    return EventLog.parse(guest.event_log()).runtime_events()


def test_a_deployment_is_its_configuration_and_then_its_models_by_name():
    assert [event.operation for event in WANTED] == ["config", "model", "model"]
    assert WANTED[1].content == f"a-model={MODELS['a-model']}"


def test_a_restart_in_the_same_td_measures_nothing_twice(guest, tmp_path):
    for _ in range(3):
        process = guest()
        measure(process, WANTED, run_directory=tmp_path / "run")
        assert logged(process) == WANTED


def test_a_restart_after_a_kill_in_the_middle_goes_on(guest, tmp_path):
    measure(guest(), WANTED, run_directory=tmp_path / "run")
    request_boot(tmp_path / "tdx")  # the journal is there, the register only half way
    half = guest()
    half.extend(WANTED[0])
    process = guest()
    measure(process, WANTED, run_directory=tmp_path / "run")
    assert logged(process) == WANTED


def test_a_journal_of_an_earlier_boot_is_not_believed(guest, tmp_path):
    measure(guest(), WANTED, run_directory=tmp_path / "run")
    request_boot(tmp_path / "tdx")
    other = runtime_events(CONFIG, {"a-model": MODELS["a-model"]})
    process = guest()
    measure(process, other, run_directory=tmp_path / "run")
    assert logged(process) == other


def test_another_deployment_in_the_same_boot_is_refused(guest, tmp_path):
    measure(guest(), WANTED, run_directory=tmp_path / "run")
    other = runtime_events(Digest.sha256(b"other"), MODELS)
    with pytest.raises(ConfigError) as refused:
        measure(guest(), other, run_directory=tmp_path / "run")
    assert refused.value.code == "td-measured-other"


def test_a_register_nobody_can_explain_is_refused(guest, tmp_path):
    guest().extend(RuntimeEvent("somebody.else", "event", "x"))
    with pytest.raises(Undecidable) as refused:
        measure(guest(), WANTED, run_directory=tmp_path / "run")
    assert refused.value.code == "rtmr-moved"


def test_a_damaged_journal_is_named(guest, tmp_path):
    (tmp_path / "run" / JOURNAL).write_bytes(b'{"version":1}')
    with pytest.raises(ConfigError) as refused:
        measure(guest(), WANTED, run_directory=tmp_path / "run")
    assert refused.value.code == "td-journal"
