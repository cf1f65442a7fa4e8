"""Where a deployment's collateral comes from: files, or a PCCS that may be away, slow or lying."""

import os
import signal
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from attestation.commands import files
from attestation.endorse import FileEndorser
from attestation.endorsers import PccsSource, Source, open_endorser
from attestation.errors import ConfigError, Undecidable
from attestation.pccs import RETRY, CachedPccs, Pccs
from tests.appraisal_world import NOW, World, intel
from tests.unit.test_endorse_pcs import COLLATERAL, NAME, QUOTE, answers, pccs

HOUR = timedelta(hours=1)
SOURCE = {
    "pccs": "https://pccs.example:8081",
    "certificate_authority": "ca.pem",
    "cache": "kept",
    "refresh_hours": 6,
}


def pem_of(der: bytes) -> str:
    return ssl.DER_cert_to_PEM_cert(der)


class Wall:
    """A clock that a test moves; it starts now, since a cache looks at the times of files."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC) + timedelta(seconds=2)

    def __call__(self) -> datetime:
        return self.at


def cache(url: str, directory: Path, clock: Wall) -> CachedPccs:
    return CachedPccs(Pccs(url, timeout_s=5), directory, 6 * HOUR, clock)


def test_a_path_is_a_file_or_a_directory_of_collateral(tmp_path):
    opened = open_endorser("kept", directory=tmp_path, clock=Wall())
    assert opened == FileEndorser(tmp_path / "kept")


def test_a_pccs_is_known_by_the_authority_a_file_names(tmp_path):
    (tmp_path / "kept").mkdir()
    source = PccsSource(**SOURCE)
    with pytest.raises(ConfigError, match="config-file-missing"):
        open_endorser(source, directory=tmp_path, clock=Wall())
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="config-invalid"):
        open_endorser(source, directory=tmp_path, clock=Wall())
    (tmp_path / "ca.pem").write_text(pem_of(intel().root_der))
    opened = open_endorser(source, directory=tmp_path, clock=Wall())
    assert isinstance(opened, CachedPccs)
    assert opened.pccs.authority is not None
    assert len(opened.pccs.authority.get_ca_certs()) == 1  # and none of the machine's


def test_a_cache_that_does_not_exist_stops_the_start_and_not_the_first_guest(tmp_path):
    source = PccsSource(**SOURCE | {"certificate_authority": "system"})
    with pytest.raises(ConfigError, match="cache is not a directory"):
        open_endorser(source, directory=tmp_path, clock=Wall())


@pytest.mark.parametrize(
    "change",
    [
        {"pccs": "http://pccs.example"},
        {"pccs": "https://user@pccs.example"},
        {"refresh_hours": 0},
        {"refresh_hours": 10_000},
        {"update": "late"},
        {"insecure": True},
        {"certificate_authority": ""},
    ],
)
def test_a_source_that_nobody_meant_is_refused(change):
    with pytest.raises(ValidationError):
        TypeAdapter(Source).validate_python({**SOURCE, **change})


def test_nvidias_word_lies_beside_what_the_pccs_said(tmp_path):
    (tmp_path / "nvidia.json").write_bytes(b"{}")
    with pccs(answers()) as (url, _):
        assert cache(url, tmp_path, Wall()).endorsements(QUOTE).gpu == b"{}"


def test_a_pccs_that_is_away_is_asked_again_after_a_while_and_not_for_every_guest(tmp_path):
    clock = Wall()
    table = {}
    with pccs(table) as (url, asked):
        endorser = cache(url, tmp_path, clock)
        files.write(tmp_path / f"{NAME}.json", COLLATERAL)
        clock.at += 7 * HOUR
        for _ in range(5):
            assert endorser.endorsements(QUOTE).tdx == COLLATERAL
        assert len(asked) == 1
        table |= answers()
        clock.at += RETRY
        assert endorser.endorsements(QUOTE).tdx
        assert len(asked) == 5


def test_a_pccs_that_answers_nonsense_is_like_one_that_is_away(tmp_path):
    nonsense = {path: (headers, b"<html>") for path, (headers, _) in answers().items()}
    with pccs(nonsense) as (url, _), pytest.raises(Undecidable) as refusal:
        cache(url, tmp_path, Wall()).endorsements(QUOTE)
    assert refusal.value.code == "pccs-unreachable"


def test_nobody_waits_for_a_pccs_while_a_file_can_answer(tmp_path):
    clock = Wall()
    files.write(tmp_path / f"{NAME}.json", COLLATERAL)
    clock.at += 7 * HOUR
    endorser = cache("http://127.0.0.1:1", tmp_path, clock)
    with endorser._asking:
        assert endorser.endorsements(QUOTE).tdx == COLLATERAL


def test_guests_that_come_at_once_ask_once(tmp_path):
    clock = Wall()
    clock.at += timedelta(minutes=5)
    with pccs(answers()) as (url, asked):
        endorser = cache(url, tmp_path, clock)
        seen = []
        threads = [
            threading.Thread(target=lambda: seen.append(endorser.endorsements(QUOTE)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(seen)) == 1
    assert len(seen) == 8
    assert len(asked) == 4


def test_a_cache_that_cannot_be_written_costs_the_cache_and_not_the_answer(tmp_path):
    with pccs(answers()) as (url, asked):
        endorser = cache(url, tmp_path / "gone", Wall())
        assert endorser.endorsements(QUOTE).tdx
        assert endorser.endorsements(QUOTE).tdx
    assert len(asked) == 8


WRITER = """
import resource, sys
from pathlib import Path
from attestation.errors import ConfigError
from attestation.commands import files
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
try:
    files.write(path, b"c" * 3_000_000)
except ConfigError as refusal:
    print(refusal.code, sorted(entry.name for entry in path.parent.iterdir()), flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
while True:
    for letter in b"ab":
        files.write(path, bytes([letter]) * 3_000_000)
"""


def test_a_disk_that_is_full_or_a_writer_that_is_killed_leaves_the_old_file_or_the_new(tmp_path):
    path = tmp_path / "collateral.json"
    files.write(path, b"a" * 3_000_000)
    for _ in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        with writer.stdout:
            left = writer.stdout.readline()
            assert left.startswith("file-unwritable ['")
            assert "c" not in path.read_text()
            threading.Event().wait(0.15)
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
        data = path.read_bytes()
        assert len(data) == 3_000_000
        assert len(set(data)) == 1


def test_what_was_kept_too_long_is_undecidable_for_the_broker(tmp_path):
    """The endorser hands old files on; the verifier is who must not take them for a pass."""
    from attestation.verifier import Verifier
    from tests.appraisal_world import NONCE

    files.write(tmp_path / f"{NAME}.json", COLLATERAL)
    clock = Wall()
    old = cache("http://127.0.0.1:1", tmp_path, clock).endorsements(QUOTE)
    late = NOW + timedelta(days=60)
    with pytest.raises(Undecidable):
        Verifier(World().policy).verify(World().evidence(), old, expected_nonce=NONCE, now=late)
