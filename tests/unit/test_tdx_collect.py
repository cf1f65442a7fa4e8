"""The collector against a software kernel that behaves, and against ones that do not."""

import contextlib
import errno
import hashlib
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from attestation.errors import ConfigError, Malformed, NotAuthentic, Undecidable
from attestation.simulator.guest import SoftwareGuest
from attestation.simulator.tsm import SimulatedKernel, request_boot
from attestation.tdx import collect
from attestation.tdx.collect import TdxGuest
from attestation.tdx.eventlog import EventLog, RuntimeEvent
from attestation.tdx.layout import claimed_body, claimed_report_data, decode_report
from attestation.tdx.quote import verify_quote
from tests.simulated_tdx import NOW, kernel_of, mock_intel, serving

DATA = hashlib.sha512(b"report data").digest()
CONFIG = RuntimeEvent("tacit.inference/v1", "config", "sha256:" + "5a" * 32)
MODEL = RuntimeEvent("tacit.inference/v1", "model", "qwen3=sha256:" + "a5" * 32)


@pytest.fixture
def kernel(tmp_path):
    with serving(kernel_of(tmp_path)) as running:
        yield running


@pytest.fixture
def guest(kernel, tmp_path):
    return TdxGuest.insecure_simulated(tmp_path, timeout_s=5)


class Hostile(SimulatedKernel):
    """A kernel whose host answers with `answer(inblob)` and then acts on the request directory."""

    def __init__(self, directory, *, answer=None, afterwards=None):
        super().__init__(directory, lambda: SoftwareGuest(mock_intel()))
        self.answer = answer
        self.afterwards = afterwards

    def _publish(self, path: Path, data: bytes, *, mode: int) -> None:
        if path.name == "provider" and self.answer == "sev":
            data = b"sev_guest\n"
        if path.name == "outblob":
            if self.afterwards:
                self.afterwards(path.parent)
            if callable(self.answer):
                data = self.answer(self, data)
        if data is not None:
            super()._publish(path, data, mode=mode)


def test_evidence_of_the_software_kernel_verifies(guest):
    guest.extend(CONFIG)
    guest.extend(MODEL)
    quote = guest.quote(DATA)
    collateral = mock_intel().collateral(NOW)
    claims = verify_quote(quote, collateral, root_der=mock_intel().root_der, now=NOW)
    log = EventLog.parse(guest.event_log())
    assert claims.report.report_data == DATA
    assert log.replay() == claims.report.rtmrs
    assert log.runtime_events() == (CONFIG, MODEL)


def test_the_log_ends_where_the_last_event_ends(guest, tmp_path):
    guest.extend(CONFIG)
    log = guest.event_log()
    assert EventLog.parse(log).used == len(log)
    assert (tmp_path / "ccel" / "data").read_bytes().startswith(log[:1000])


def test_a_request_leaves_no_directory_behind(guest, tmp_path):
    guest.quote(DATA)
    assert list((tmp_path / "report").iterdir()) == []


def test_concurrent_quotes_each_carry_their_own_report_data(guest):
    wanted = [hashlib.sha512(bytes([n])).digest() for n in range(12)]
    with ThreadPoolExecutor(6) as pool:
        quotes = list(pool.map(guest.quote, wanted))
    assert [claimed_report_data(quote) for quote in quotes] == wanted


def test_concurrent_processes_do_not_disturb_each_other(kernel, tmp_path):
    guests = [TdxGuest.insecure_simulated(tmp_path, timeout_s=5) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        quotes = list(pool.map(lambda guest: guest.quote(DATA), guests))
    assert {claimed_report_data(quote) for quote in quotes} == {DATA}


def test_concurrent_events_are_all_measured_and_logged(guest, kernel):
    events = [RuntimeEvent("test", "event", str(n)) for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(guest.extend, events))
    log = EventLog.parse(guest.event_log())
    assert set(log.runtime_events()) == set(events)
    assert log.replay() == kernel.guest.report.rtmrs


def test_a_second_process_in_the_same_boot_may_not_measure(guest, tmp_path):
    guest.extend(CONFIG)
    restarted = TdxGuest.insecure_simulated(tmp_path)
    with pytest.raises(Undecidable) as refusal:
        restarted.extend(CONFIG)
    assert refusal.value.code == "rtmr-moved"


def test_a_fresh_boot_may_measure_again(guest, tmp_path):
    guest.extend(CONFIG)
    request_boot(tmp_path)
    again = TdxGuest.insecure_simulated(tmp_path)
    again.extend(MODEL)
    assert EventLog.parse(again.event_log()).runtime_events() == (MODEL,)


def test_a_register_moved_between_two_events_is_noticed(guest, kernel, tmp_path):
    guest.extend(CONFIG)
    stranger = hashlib.sha384(b"stranger").digest()
    (tmp_path / "measurements" / "rtmr3:sha384").write_bytes(stranger)
    before = kernel.guest.report.rtmrs[3]
    while kernel.guest.report.rtmrs[3] == before:
        pass
    with pytest.raises(Undecidable) as refusal:
        guest.extend(MODEL)
    assert refusal.value.code == "rtmr-moved"


def test_a_kernel_that_does_not_extend_is_noticed(tmp_path):
    kernel_of(tmp_path).boot()  # nobody polls
    guest = TdxGuest.insecure_simulated(tmp_path, timeout_s=0.05)
    with pytest.raises(Undecidable) as refusal:
        guest.extend(CONFIG)
    assert refusal.value.code == "rtmr-not-extended"
    assert EventLog.parse(guest.event_log()).runtime_events() == ()


def test_a_host_that_answers_with_another_quote_is_a_liar(tmp_path):
    def another(kernel, quote):
        return kernel.guest.quote(bytes(64))

    with serving(Hostile(tmp_path, answer=another)), pytest.raises(NotAuthentic) as refusal:
        TdxGuest.insecure_simulated(tmp_path).quote(DATA)
    assert refusal.value.code == "quote-report-data"


@pytest.mark.parametrize("answer", [b"x", b"\x84" * 400, bytes(5000)])
def test_a_host_that_answers_with_no_quote_is_refused(tmp_path, answer):
    with (
        serving(Hostile(tmp_path, answer=lambda *_: answer)),
        pytest.raises(Malformed) as refusal,
    ):
        TdxGuest.insecure_simulated(tmp_path).quote(DATA)
    assert refusal.value.code == "quote-malformed"


def test_a_quote_that_never_ends_is_refused(tmp_path):
    def endless(kernel, quote):
        return quote + bytes(collect.MAX_OUTBLOB)

    with serving(Hostile(tmp_path, answer=endless)), pytest.raises(Undecidable) as refusal:
        TdxGuest.insecure_simulated(tmp_path).quote(DATA)
    assert refusal.value.code == "quote-too-large"


def test_a_quote_asked_for_by_somebody_else_is_discarded(tmp_path):
    def interfere(entry):
        (entry / "generation").unlink()
        (entry / "generation").write_bytes(b"2\n")

    with serving(Hostile(tmp_path, afterwards=interfere)), pytest.raises(Undecidable) as refusal:
        TdxGuest.insecure_simulated(tmp_path).quote(DATA)
    assert refusal.value.code == "quote-interfered"
    assert list((tmp_path / "report").iterdir()) == []


def test_the_software_kernel_counts_every_write_to_a_request(kernel, tmp_path):
    entry = tmp_path / "report" / "two-writers"
    entry.mkdir()
    _wait_for(entry / "inblob")
    for n in (1, 2):
        with (entry / "inblob").open("r+b") as inblob:
            inblob.write(bytes([n]) * 64)
        _wait_for_content(entry / "generation", b"%d\n" % n)
    assert claimed_report_data((entry / "outblob").read_bytes()) == b"\x02" * 64


def test_another_provider_is_not_tdx(tmp_path):
    with serving(Hostile(tmp_path, answer="sev")), pytest.raises(ConfigError) as refusal:
        TdxGuest.insecure_simulated(tmp_path).quote(DATA)
    assert refusal.value.code == "tdx-provider"


def test_a_host_that_never_answers_runs_into_the_timeout(tmp_path):
    with (
        serving(Hostile(tmp_path, answer=lambda *_: None)),
        pytest.raises(Undecidable) as refusal,
    ):
        TdxGuest.insecure_simulated(tmp_path, timeout_s=0.1).quote(DATA)
    assert refusal.value.code == "quote-timeout"
    assert list((tmp_path / "report").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EFBIG, "quote-too-large"),
        (errno.ETIMEDOUT, "quote-timeout"),
        (errno.EWOULDBLOCK, "quote-interfered"),
        (errno.EIO, "quote-unavailable"),
    ],
)
def test_each_answer_of_the_kernel_has_its_own_code(number, code):
    assert collect._unanswered(OSError(number, "kernel")).code == code


def test_an_outblob_that_cannot_be_read_is_undecidable(tmp_path):
    def directory_instead(entry):
        (entry / "outblob").symlink_to(entry)  # reading it fails with EISDIR

    kernel = Hostile(tmp_path, answer=lambda *_: None, afterwards=directory_instead)
    with serving(kernel), pytest.raises(Undecidable) as refusal:
        TdxGuest.insecure_simulated(tmp_path, timeout_s=1).quote(DATA)
    assert refusal.value.code == "quote-unavailable"


def test_report_data_has_exactly_64_bytes(guest):
    with pytest.raises(Malformed):
        guest.quote(bytes(63))


@pytest.mark.parametrize("missing", ["report", "measurements", "ccel/data"])
def test_without_the_kernel_interfaces_the_operator_is_told_what_to_do(tmp_path, missing):
    kernel_of(tmp_path).boot()
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError) as refusal:
        TdxGuest.insecure_simulated(tmp_path)
    assert refusal.value.code == "tdx-absent"
    assert "Linux" in refusal.value.why or "firmware" in refusal.value.why


def test_a_report_directory_that_vanished_is_undecidable(tmp_path):
    kernel_of(tmp_path).boot()
    guest = TdxGuest.insecure_simulated(tmp_path)
    (tmp_path / "report").rename(tmp_path / "elsewhere")
    with pytest.raises(Undecidable) as refusal:
        guest.quote(DATA)
    assert refusal.value.code == "quote-unavailable"


@pytest.mark.parametrize(
    ("path", "use"),
    [
        ("ccel/data", lambda guest: guest.event_log()),
        ("measurements/rtmr3:sha384", lambda guest: guest.extend(CONFIG)),
        ("report", lambda guest: guest.quote(DATA)),
    ],
    ids=["log", "register", "report"],
)
def test_a_service_without_rights_is_told_which_file(path, use):
    with tempfile.TemporaryDirectory() as name, _unprivileged(Path(name), path) as directory:
        with pytest.raises(ConfigError) as refusal:
            use(TdxGuest.insecure_simulated(directory))
        assert refusal.value.code == "tdx-denied"
        assert path in refusal.value.why


@pytest.mark.skipif(Path("/sys/kernel/config/tsm/report").exists(), reason="this machine has TSM")
def test_the_environment_cannot_redirect_the_collector(kernel, tmp_path, monkeypatch):
    monkeypatch.setenv("DCAP_TDX_QUOTE_CONFIGFS_PATH", str(tmp_path / "report"))
    with pytest.raises(ConfigError) as refusal:
        TdxGuest.kernel()
    assert "/sys/kernel/config/tsm/report" in refusal.value.why


def test_launch_values_show_in_the_measurement_files(tmp_path):
    with serving(kernel_of(tmp_path, mr_config_id=b"\x07" * 48)) as kernel:
        quote = TdxGuest.insecure_simulated(tmp_path).quote(DATA)
    files = tmp_path / "measurements"
    assert (files / "mrconfigid").read_bytes() == b"\x07" * 48
    assert (files / "mrtd:sha384").read_bytes() == kernel.guest.report.mrtd
    assert decode_report(claimed_body(quote)).mr_config_id == b"\x07" * 48


@contextlib.contextmanager
def _unprivileged(directory, path):
    """Boot a software kernel, take the rights to `path` away and give up those of root."""
    kernel_of(directory).boot()
    directory.chmod(0o755)
    mode = {"ccel/data": 0, "report": 0o555}.get(path, 0o444)
    (directory / path).chmod(mode)
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(65534)
    try:
        yield directory
    finally:
        os.seteuid(uid)
        (directory / path).chmod(0o755)


def _wait_for(path):
    ticks = threading.Event()
    for _ in range(400):
        if path.exists():
            return
        ticks.wait(0.005)
    raise AssertionError(path.name)


def _wait_for_content(path, content):
    ticks = threading.Event()
    for _ in range(400):
        if path.exists() and path.read_bytes() == content and (path.parent / "outblob").exists():
            return
        ticks.wait(0.005)
    raise AssertionError(path.name)
