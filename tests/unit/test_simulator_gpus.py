"""Software GPUs from a command line to claims, through the collector of genuine ones."""

import stat
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from attestation.binding import KeysetBinding
from attestation.cli import main as tacit
from attestation.errors import ConfigError, NotAuthentic, Undecidable
from attestation.gpu.collect import GpuGuest
from attestation.gpu.evidence import GpuEndorsements, GpuEvidence
from attestation.gpu.verify import nvidia_roots, verify_gpu
from attestation.policy import Policy
from attestation.simulator import gpus, state
from attestation.simulator.__main__ import main
from attestation.simulator.gpus import SoftwareGpus
from attestation.simulator.guest import SoftwareGuest
from attestation.simulator.tsm import SimulatedKernel
from attestation.tdx.collect import TdxGuest
from attestation.types import Endorsements, Nonce
from tests.appraisal_world import KEYSET
from tests.simulated_tdx import serving

NONCE = bytes(range(32))
DIGEST = "sha256:" + "5a" * 32
BOARDS = {
    "one": ["--gpus", "1"],
    "two": ["--gpus", "2"],
    "blackwell": ["--gpus", "2", "--architecture", "blackwell"],
    "baseboard": ["--gpus", "8", "--switches", "4"],
}


def new(directory, *words):
    assert main(["new", str(directory), *words]) == 0
    return directory


def kernel_of(directory, **lies):
    intel, board = state.load(directory), gpus.load(directory)
    served = SoftwareGpus(directory, board, **lies)
    return SimulatedKernel(directory, lambda: SoftwareGuest(intel), gpus=served)


def stored(directory):
    return GpuEndorsements.parse((directory / "endorsements" / "nvidia.json").read_bytes())


def test_a_guest_that_has_not_booted_yet_can_be_asked_what_to_carry(tmp_path):
    directory, out = new(tmp_path / "tdx", "--gpus", "2"), tmp_path / "evidence.json"
    with serving(kernel_of(directory)):
        words = ["endorse", "gpu-evidence", "--simulated", str(directory), "--to", str(out)]
        assert tacit(words) == 0
    assert len(GpuEvidence.parse(out.read_bytes()).devices) == 2


@pytest.mark.parametrize("words", BOARDS.values(), ids=BOARDS)
def test_a_board_is_collected_from_and_its_own_policy_affirms_it(tmp_path, capfd, words):
    directory = new(tmp_path / "tdx", *words)
    capfd.readouterr()
    assert main(["policy", str(directory), "--config", DIGEST, "--model", f"m={DIGEST}"]) == 0
    policy = Policy.load(capfd.readouterr().out.encode(), name="simulated")
    with serving(kernel_of(directory)):
        evidence = GpuGuest.insecure_simulated(directory).evidence(NONCE)
    now = datetime.now(UTC)
    claims = verify_gpu(
        GpuEvidence.parse(evidence.to_bytes()),
        stored(directory),
        nonce=NONCE,
        roots=policy.roots.gpu,
        now=now,
    )
    assert not any(device.unmatched for device in claims)
    from attestation.checks_gpu import GPU_ROWS, GpuCase

    case = GpuCase(claims, policy.file.gpu, now)
    assert {row.id: row.judge(case)[0] for row in GPU_ROWS} == dict.fromkeys(
        (row.id for row in GPU_ROWS), True
    )


def test_nvidias_own_roots_refuse_software_gpus(tmp_path):
    directory = new(tmp_path / "tdx", "--gpus", "1")
    with serving(kernel_of(directory)):
        evidence = GpuGuest.insecure_simulated(directory).evidence(NONCE)
    with pytest.raises(NotAuthentic, match="gpu-chain"):
        verify_gpu(
            evidence,
            stored(directory),
            nonce=NONCE,
            roots=nvidia_roots(),
            now=datetime.now(UTC),
        )


def test_a_production_policy_cannot_name_the_mock_nvidia(tmp_path, capfd):
    directory = new(tmp_path / "tdx", "--gpus", "1")
    capfd.readouterr()
    main(["policy", str(directory), "--config", DIGEST, "--model", f"m={DIGEST}"])
    document = yaml.safe_load(capfd.readouterr().out)
    document["profile"] = "production"
    with pytest.raises(ConfigError, match="policy-invalid"):
        Policy.load(yaml.safe_dump(document).encode(), name="p")
    document["root"] = {"simulated": document["root"]["simulated"]} | {"intel": True}
    with pytest.raises(ConfigError, match="policy-invalid"):
        Policy.load(yaml.safe_dump(document).encode(), name="p")


def test_the_seed_of_the_mock_nvidia_is_readable_by_its_owner_alone(tmp_path):
    directory = new(tmp_path / "tdx", "--gpus", "1")
    assert stat.S_IMODE((directory / "nvidia").stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "nvidia" / "board.json").stat().st_mode) == 0o600
    with serving(kernel_of(directory)):
        shown = b"".join(p.read_bytes() for p in (directory / "gpu").iterdir() if p.is_file())
    seed = yaml.safe_load((directory / "nvidia" / "board.json").read_text())["seed"]
    assert seed.encode() not in shown


def test_refreshed_endorsements_are_dated_now(tmp_path):
    directory = new(tmp_path / "tdx", "--gpus", "1")
    later = datetime.now(UTC) + timedelta(days=20)
    state.write_collateral(directory, state.load(directory), now=later)
    with serving(kernel_of(directory)):
        evidence = GpuGuest.insecure_simulated(directory).evidence(NONCE)
    board = gpus.load(directory)
    assert verify_gpu(evidence, stored(directory), nonce=NONCE, roots=board.nvidia.roots, now=later)


@pytest.mark.parametrize(
    "words",
    [
        ["--gpus", "9"],
        ["--gpus", "0"],
        ["--gpus", "-1"],
        ["--gpus", "4", "--switches", "4"],
        ["--gpus", "8", "--switches", "4", "--architecture", "blackwell"],
    ],
    ids=" ".join,
)
def test_boards_that_nobody_makes_are_refused_and_leave_nothing(tmp_path, capsys, words):
    directory = new(tmp_path / "tdx")
    assert main(["gpus", str(directory), *words]) == 2
    assert "simulator-board" in capsys.readouterr().err
    assert gpus.load(directory) is None


def test_gpus_that_no_simulator_serves_are_unavailable(tmp_path):
    with pytest.raises(Undecidable, match="gpu-unavailable"):
        GpuGuest.insecure_simulated(tmp_path).evidence(NONCE)


def test_a_simulator_that_ended_is_not_waited_for_without_end(tmp_path):
    from attestation.gpu.insecure_nvml import SoftwareNvml

    directory = new(tmp_path / "tdx", "--gpus", "1")
    kernel_of(directory).boot()
    with pytest.raises(Undecidable, match="gpu-unavailable"):
        GpuGuest(SoftwareNvml(directory, timeout_s=0.05)).evidence(NONCE)
    assert not list((directory / "gpu" / "asked").iterdir())


@pytest.mark.parametrize(
    "name", ["x", "0", "99." + "00" * 32 + "." + "00" * 8, "0.00." + "00" * 8, "0." + "zz" * 32]
)
def test_what_is_no_question_is_taken_away_unanswered(tmp_path, name):
    directory = new(tmp_path / "tdx", "--gpus", "1")
    served = SoftwareGpus(directory, gpus.load(directory))
    served.boot()
    (directory / "gpu" / "asked" / name).touch()
    assert served.poll()
    for place in ("asked", "answered"):
        assert not list((directory / "gpu" / place).iterdir())


def test_a_directory_in_place_of_a_question_ends_no_simulator(tmp_path):
    directory = new(tmp_path / "tdx", "--gpus", "1")
    served = SoftwareGpus(directory, gpus.load(directory))
    served.boot()
    (directory / "gpu" / "asked" / "x").mkdir()
    assert not served.poll()


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b"\xff", b'{"version":1,"settings":{},"devices":[]}']
)
def test_a_damaged_state_is_unavailable_and_nothing_worse(tmp_path, damage):
    directory = new(tmp_path / "tdx", "--gpus", "1")
    kernel_of(directory).boot()
    (directory / "gpu" / "state.json").write_bytes(damage)
    with pytest.raises(Undecidable, match="gpu-unavailable"):
        GpuGuest.insecure_simulated(directory).evidence(NONCE)


def test_gpus_take_work_only_when_told_and_a_boot_forgets(tmp_path):
    directory = new(tmp_path / "tdx", "--gpus", "1")
    kernel = kernel_of(directory)
    ready = directory / "gpu" / "ready"
    with serving(kernel):
        guest = GpuGuest.insecure_simulated(directory)
        guest.evidence(NONCE)
        assert not ready.exists()
        guest.accept_work()
        assert ready.read_text() == "1\n"
    kernel.boot()
    assert not ready.exists()


def test_a_whole_guest_with_a_software_gpu_is_verified(tmp_path):
    from attestation.authenticate import Roots, authenticate
    from attestation.binding import report_data
    from attestation.evidence import Evidence
    from attestation.gpu.evidence import bound_nonce

    directory = new(tmp_path / "tdx", "--gpus", "1")
    binding = KeysetBinding(Nonce(NONCE), KEYSET)
    with serving(kernel_of(directory)):
        gpu = GpuGuest.insecure_simulated(directory).evidence(bound_nonce(binding)).to_bytes()
        tdx = TdxGuest.insecure_simulated(directory)
        log = tdx.event_log()
        quote = tdx.quote(report_data(binding, event_log=log, gpu_evidence=gpu))
    intel, board = state.load(directory), gpus.load(directory)
    claims = authenticate(
        Evidence(quote, log, gpu, binding),
        Endorsements(
            (directory / "collateral.json").read_bytes(), board.endorsements(datetime.now(UTC))
        ),
        roots=Roots(intel.root_der, simulated=True, gpu=board.nvidia.roots),
        expected_nonce=Nonce(NONCE),
        now=datetime.now(UTC),
    )
    assert [device.mode.value for device in claims.gpu] == ["spt"]
