"""Every broken link of the chain stops the boot with its own code, and no port ever opens."""

import dataclasses
import fcntl
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from attestation.simulator import state
from attestation.simulator.intel import GENUINE, Statements
from attestation.simulator.statements import PlatformLevel, TcbInfo
from attestation.tdx.claims import TcbStatus
from scripts.chain.installation import MODEL, key_of
from scripts.chain.processes import TACIT, run
from tests.chain_kit import World


@pytest.fixture
def world(installed: World, tmp_path):
    copy = installed.fork(tmp_path / "installation")
    yield copy
    copy.remove()


def refused(world: World, code: str, *, status: int, **guest):
    with world.software_tdx(**guest), world.broker():
        outcome = world.serve()
    assert (outcome.code, outcome.status) == (code, status), outcome.output
    assert not outcome.opened
    return outcome


def refused_by_broker(world: World, code: str, **guest):
    outcome = refused(world, "broker-refused", status=5, **guest)
    assert outcome.why.endswith(f"code {code}"), outcome.output


# -- the broker


def test_a_broker_that_is_down_leaves_the_boot_undecided(world):
    with world.software_tdx():
        outcome = world.serve()
    assert (outcome.code, outcome.status) == ("broker-unreachable", 6), outcome.output
    assert not outcome.opened


def test_a_broker_with_another_key_than_the_measured_one_is_not_asked(world):
    broker = world.installation.broker_config
    for name in ("tls.crt", "tls.key"):
        (broker.parent / name).rename(broker.parent / f"measured-{name}")
    run([TACIT, "broker", broker, "--init"])
    config = world.installation.config
    config.write_text(config.read_text().replace("broker/tls.crt", "broker/measured-tls.crt"))
    refused(world, "broker-tls-key", status=4)


# -- the guest


def test_another_firmware_is_refused(world):
    refused_by_broker(world, "tdx.mrtd", measurements={"mrtd": b"\x13" * 48})


@pytest.mark.parametrize("register", [0, 1, 2])
def test_another_boot_chain_is_refused(world, register):
    world.edit_policy(rf"(rtmr{register}: .*)[0-9a-f]{{96}}", rf"\g<1>{'13' * 48}")
    refused_by_broker(world, f"tdx.rtmr{register}")


def test_another_configuration_is_refused(world):
    with world.installation.config.open("a") as config:
        config.write("# one comment more\n")
    refused_by_broker(world, "runtime.config")


def test_another_model_than_the_policy_names_is_refused(world):
    world.edit_policy(rf'("{MODEL}": \[")sha256:[0-9a-f]{{64}}', r"\1sha256:" + "13" * 32)
    refused_by_broker(world, "runtime.model")


def test_a_debug_guest_is_refused(world):
    refused_by_broker(world, "tdx-debug", debug=True)


def test_a_platform_that_is_out_of_date_is_refused(world):
    stale = dataclasses.replace(PlatformLevel(), status=TcbStatus.OUT_OF_DATE.value)
    endorse(world, Statements(tcb_info=TcbInfo(levels=(stale,))))
    refused_by_broker(world, "tdx.tcb-status")


def test_expired_collateral_leaves_the_boot_undecided(world):
    endorse(world, GENUINE, at=datetime.now(UTC) - timedelta(days=60))
    outcome = refused(world, "broker-undecided", status=6)
    assert outcome.why.endswith("code crl-expired"), outcome.output


def endorse(world: World, statements: Statements, *, at: datetime | None = None) -> None:
    intel = state.load(world.installation.tdx)
    data = intel.collateral(at or datetime.now(UTC), state=statements)
    stapled = world.installation.tdx / state.ENDORSEMENTS
    (platform,) = stapled.glob("*-platform.json")
    platform.write_bytes(data)


# -- the weights


def shard(world: World):
    return max(world.installation.sealed.glob("*.sealed"), key=lambda file: file.stat().st_size)


def test_a_truncated_shard_stops_the_boot(world):
    file = shard(world)
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 1)
    refused(world, "weights-size", status=3)


def test_a_missing_shard_stops_the_boot(world):
    shard(world).unlink()
    refused(world, "weights-missing-file", status=3)


def test_plaintext_beside_the_sealed_files_stops_the_boot(world):
    (world.installation.sealed / "model.safetensors").write_bytes(b"\x08" + bytes(7) + b"{}      ")
    refused(world, "weights-plaintext-beside", status=4)


def test_a_manifest_signed_by_a_stranger_stops_the_boot(world, checkpoint):
    sealed = world.installation.sealed
    shutil.rmtree(sealed)
    sealed.with_name(f"{MODEL}.key.json").rename(world.directory / "kept")
    run([TACIT, "keygen", world.directory / "stranger.pem"])
    kek = f"file:{world.installation.broker_config.parent}/kek"
    words = ["--key", kek, "--sign", world.directory / "stranger.pem", "--name", MODEL]
    run([TACIT, "seal", checkpoint, sealed, *words, "--resource", key_of(MODEL)])
    refused(world, "manifest-signer", status=4)


@pytest.fixture
def resealed(world, checkpoint):
    """The same signer's next package lies there; the broker still has the key of the first."""
    sealed, keys = world.installation.sealed, world.installation.broker_config.parent
    wrapped = sealed.with_name(f"{MODEL}.key.json")
    kept = wrapped.read_bytes()
    shutil.rmtree(sealed)
    wrapped.unlink()
    signer = world.directory / "keys" / "model-signer.pem"
    words = ["--key", f"file:{keys}/kek", "--sign", signer, "--name", MODEL]
    run([TACIT, "seal", checkpoint, sealed, *words, "--resource", key_of(MODEL)])
    wrapped.write_bytes(kept)
    return world


def test_a_package_the_policy_does_not_name_is_refused(resealed):
    refused_by_broker(resealed, "runtime.model")


def test_a_key_is_not_released_for_another_package_than_it_was_made_for(resealed):
    resealed.installation.write_policy()
    refused_by_broker(resealed, "manifest-not-measured")


def test_a_damaged_small_file_stops_the_boot(world):
    small = min(world.installation.sealed.glob("*.sealed"), key=lambda file: file.stat().st_size)
    data = bytearray(small.read_bytes())
    data[len(data) // 2] ^= 1
    small.write_bytes(data)
    refused(world, "weights-chunk", status=4)


# -- the place


def test_a_run_directory_on_a_disk_stops_the_boot(world):
    config = world.installation.config
    config.write_text(
        config.read_text().replace(str(world.run_directory), str(world.directory / "run"))
    )
    world.installation.write_policy()
    refused(world, "run-directory", status=2)


def test_a_second_gateway_does_not_take_the_run_directory_of_the_first(world):
    world.run_directory.mkdir(mode=0o700)
    with (world.run_directory / "lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused(world, "run-directory", status=2)
