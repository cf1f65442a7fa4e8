"""The command line of the simulator, and its directory served by a process of its own."""

import hashlib
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestation.errors import ConfigError
from attestation.policy import Policy
from attestation.simulator import state
from attestation.simulator.__main__ import main
from attestation.simulator.tsm import exclusive, request_boot
from attestation.tdx.collect import TdxGuest
from attestation.tdx.eventlog import EventLog, RuntimeEvent
from attestation.tdx.quote import verify_quote
from tests.simulated_tdx import NOW

ROOT = Path(__file__).parents[2]
CONFIG = "sha256:" + "5a" * 32
EVENT = RuntimeEvent("tacit.inference/v1", "config", CONFIG)


@pytest.fixture
def directory(tmp_path):
    state.create(tmp_path / "tdx", now=datetime.now(UTC))
    return tmp_path / "tdx"


def test_keys_are_readable_by_their_owner_alone(directory):
    keys = directory / "intel"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()} == {0o600}


def test_the_hierarchy_survives_on_disk(directory):
    intel = state.load(directory)
    assert intel.root_pem == (directory / "root.pem").read_bytes()


def test_an_existing_trust_root_is_never_overwritten(directory, capsys):
    root = (directory / "root.pem").read_bytes()
    assert main(["new", str(directory)]) == 2
    assert "simulator-exists" in capsys.readouterr().err
    assert (directory / "root.pem").read_bytes() == root


def test_new_says_where_root_and_collateral_are_and_warns(tmp_path, capsys):
    assert main(["new", str(tmp_path / "new")]) == 0
    out, err = capsys.readouterr()
    assert all(Path(line).is_file() for line in out.splitlines())
    assert len(out.splitlines()) == 2
    assert "SIMULATED" in err


def test_refreshed_collateral_is_dated_now_under_the_same_root(tmp_path, capsys):
    intel = state.create(tmp_path / "tdx", now=NOW)
    before = (tmp_path / "tdx" / "collateral.json").read_bytes()
    assert main(["collateral", str(tmp_path / "tdx")]) == 0
    after = (tmp_path / "tdx" / "collateral.json").read_bytes()
    assert after != before
    assert state.load(tmp_path / "tdx").root_der == intel.root_der


def test_the_printed_policy_loads_and_trusts_this_root_alone(directory, capfdbinary):
    model = "qwen3=sha256:" + "a5" * 32
    assert main(["policy", str(directory), "--config", CONFIG, "--model", model]) == 0
    policy = Policy.load(capfdbinary.readouterr().out, name="policy.yaml")
    assert policy.roots.simulated
    assert policy.roots.tdx_der == state.load(directory).root_der
    assert str(policy.file.runtime.config[0]) == CONFIG


def test_a_directory_without_a_simulator_is_named(tmp_path, capsys):
    assert main(["collateral", str(tmp_path)]) == 2
    assert "simulator-absent" in capsys.readouterr().err


def test_a_wrong_digest_is_refused_with_a_next_step(directory, capsys):
    assert main(["policy", str(directory), "--config", "sha256:00", "--model", "a=b"]) == 3
    assert "next:" in capsys.readouterr().err


def test_two_simulators_cannot_serve_one_directory(directory):
    with exclusive(directory), pytest.raises(ConfigError) as refusal, exclusive(directory):
        pass
    assert refusal.value.code == "simulator-busy"


def test_a_boot_that_nobody_serves_is_an_error(directory):
    with pytest.raises(ConfigError) as refusal:
        request_boot(directory)
    assert refusal.value.code == "simulator-down"


def test_a_boot_request_times_out_and_is_withdrawn(directory):
    (directory / "measurements").mkdir()
    with pytest.raises(ConfigError) as refusal:
        request_boot(directory, timeout_s=0.02)
    assert refusal.value.code == "simulator-down"
    assert not (directory / "boot-request").exists()


def test_the_served_process_attests_boots_again_and_stops(directory):
    process = subprocess.Popen(
        [sys.executable, "-m", "attestation.simulator", "serve", str(directory)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == f"READY {directory}\n"
        data = hashlib.sha512(b"served").digest()
        for _ in range(2):
            guest = TdxGuest.insecure_simulated(directory)
            guest.extend(EVENT)
            quote = guest.quote(data)
            claims = verify_quote(
                quote,
                (directory / "collateral.json").read_bytes(),
                root_der=state.load(directory).root_der,
                now=datetime.now(UTC),
            )
            assert EventLog.parse(guest.event_log()).replay() == claims.report.rtmrs
            assert main(["boot", str(directory)]) == 0
    finally:
        process.terminate()
        _, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "SIMULATED" in err
    assert list((directory / "report").iterdir()) == []
