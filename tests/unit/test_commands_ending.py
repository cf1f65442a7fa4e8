"""How a command ends where files, streams or patience fail: a sentence, its code, no half file."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.cli import main
from attestation.report import Report
from attestation.types import Digest
from tests.appraisal_world import KEYSET, NOW, World, policy_text
from tests.disk import full_disk

TACIT = [sys.executable, "-m", "attestation.cli"]
"""Run as a child where the process is what is tested: its streams, its rights, its signals."""

READS = [
    "verify report BAD --policy policy.yaml",
    "verify report report.json --policy BAD",
    "verify report report.json --policy policy.yaml --policy-signer BAD",
    "verify report report.json --policy policy.yaml --collateral quote --collateral-signer BAD",
    "verify report report.json --policy policy.yaml --gpu-endorsements BAD",
    "verify report report.json --policy policy.yaml --ear ear --ear-key BAD",
    "verify quote BAD --collateral report.json --at 1",
    "verify quote quote --collateral BAD --at 1",
    f"verify quote quote --collateral tdx --at {NOW:%s} --policy policy.yaml --event-log BAD",
    "verify quote quote --collateral report.json --at 1 --policy BAD",
    "verify gpu BAD --certs key.pem",
    "verify gpu key.pem --certs BAD",
    "verify service https://127.0.0.1:1 --policy BAD",
    "explain BAD",
    "inspect BAD",
    "policy new --from BAD",
    "policy new --simulated-root BAD",
    "policy check BAD",
    "policy sign BAD --key key.pem --number 1",
    "policy sign policy.yaml --key BAD --number 1",
    "endorse fetch https://127.0.0.1:1 --quote BAD --to .",
    "endorse fetch https://127.0.0.1:1 --fmspc 00806f050000 --tls-ca BAD --to .",
    "endorse import --tcb BAD --qe-identity BAD --pck-crl BAD --root-crl BAD --to out",
    "endorse gpu BAD --rims . --ocsp . --to out",
]
WRITES = [
    "verify report report.json --policy policy.yaml --html BAD",
    "policy sign policy.yaml --key key.pem --number 1 --out BAD",
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    staple = World().guest().endorsements(NOW)
    report = Report.build(World().evidence(), staple).verified(
        NOW,
        tls_spki=Digest.parse(KEYSET.tls_spki),
        policy=policy_text().encode(),
        endorsements=staple,
    )
    key = Ed25519PrivateKey.generate()
    (tmp_path / "report.json").write_bytes(report.to_bytes())
    (tmp_path / "quote").write_bytes(report.evidence.quote)
    (tmp_path / "tdx").write_bytes(staple.tdx)
    (tmp_path / "policy.yaml").write_text(policy_text())
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(directory) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def child(words, **options) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*TACIT, *words], capture_output=True, check=False, **options)


@pytest.mark.parametrize("line", READS)
def test_what_cannot_be_read_is_named_with_what_to_do(place, capsys, line):
    (place / "directory").mkdir()
    os.mkfifo(place / "pipe")
    before = names(place)
    for bad in ("missing", "directory", "pipe"):
        assert main(line.replace("BAD", bad).split()) in (2, 6)  # 6: nothing says if it holds
        said = capsys.readouterr().err
        assert f"{bad}: " in said
        assert "\n  next: " in said
    assert names(place) == before


@pytest.mark.parametrize("line", WRITES)
def test_what_cannot_be_written_loses_nothing_and_leaves_nothing(place, capsys, line):
    (place / "directory").mkdir()
    (place / "old").write_bytes(b"old")
    before = names(place)
    for bad in ("no/such", "directory", "/dev/full"):
        assert main(line.replace("BAD", bad).split()) == 2
        assert f"{bad}: " in capsys.readouterr().err
    with full_disk():
        assert main(line.replace("BAD", "old").split()) == 2
    assert "old: File too large (file-unwritable)" in capsys.readouterr().err
    assert (names(place), (place / "old").read_bytes()) == (before, b"old")


def test_rights_that_are_missing_are_said(place):
    """Root may do everything, so that its child gives up the capability to."""

    def as_a_user() -> None:
        libc = ctypes.CDLL(None)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP

    (place / "secret.pem").write_bytes((place / "key.pem").read_bytes())
    (place / "secret.pem").chmod(0)
    (place / "closed").mkdir(mode=0o500)
    for key, out, said in (
        ("secret.pem", "out", b"secret.pem: Permission denied (file-unreadable)"),
        ("key.pem", "closed/out", b"closed/out: Permission denied (file-unwritable)"),
    ):
        words = ["policy", "sign", "policy.yaml", "--key", key, "--number", "1", "--out", out]
        done = child(words, preexec_fn=as_a_user)
        assert (done.returncode, done.stdout) == (2, b"")
        assert said in done.stderr
    assert names(place / "closed") == []
    assert not (place / "out").exists()


def test_an_interrupt_while_a_service_is_waited_for_leaves_no_file_and_no_traceback(place):
    # a shell starts what runs in its background with SIGINT ignored, which children inherit
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"https://127.0.0.1:{server.getsockname()[1]}"
        words = ["verify", "service", url, "--policy", "policy.yaml", "--save", "kept"]
        with subprocess.Popen(
            [*TACIT, *words, "--html", "page"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        ) as process:
            server.settimeout(30)
            connection, _ = server.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, (b"", b""))
    assert names(place) == ["key.pem", "policy.yaml", "quote", "report.json", "tdx"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_nobody_reads_ends_it_quietly(place, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        done = subprocess.run(
            [*TACIT, "policy", "check", "policy.yaml"],
            stdout=nobody,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_output_that_takes_nothing_is_no_success(place):
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *TACIT, "policy", "check", "policy.yaml"]
    ends = [(subprocess.run(shell, stderr=subprocess.PIPE, check=False), b"closed")]
    for unbuffered in ("", "1"):
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                shell[4:], stdout=full, stderr=subprocess.PIPE, env=environment, check=False
            )
        ends.append((done, b"No space left on device"))
    for ended, why in ends:
        assert ended.returncode == 2
        assert ended.stderr.startswith(b"tacit: ConfigError: standard output")
        assert why + b" (output-unwritable)\n  next: " in ended.stderr


def test_names_that_are_no_text_are_read_written_and_shown_in_any_locale(place):
    odd, page = os.fsdecode(b"p\xff\xc3.yaml"), os.fsdecode(b"page\xff")
    (place / "policy.yaml").rename(odd)
    plain, utf8 = ({"LC_ALL": locale, "PATH": os.environ["PATH"]} for locale in ("C", "C.UTF-8"))
    words = ["verify", "report", "report.json", "--policy", odd, "--html", page]
    done = child(words, env=plain)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "<!doctype html>" in (place / page).read_text(encoding="utf-8")
    done = child(["policy", "sign", odd, "--key", "key.pem", "--number", "1"], env=utf8)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(rb"p\udcff\udcc3.yaml.dsse.json: policy ")
    done = child(["inspect", os.fsdecode(b"\xff")], env=plain)
    assert done.returncode == 2
    assert rb"\udcff: No such file" in done.stderr
