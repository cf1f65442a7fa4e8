"""GPUs in a boot over the real chain: what the guest or the broker refuses gets no key."""

from dataclasses import replace

import pytest

from attestation.simulator import gpus
from attestation.simulator.gpus import CONFIDENTIAL, Board, SoftwareGpus
from attestation.simulator.nvidia import MockNvidia
from tests.chain_kit import World


@pytest.fixture
def world(installed: World, tmp_path):
    copy = installed.fork(tmp_path / "installation")
    yield copy
    copy.remove()


def board(world: World) -> Board:
    found = gpus.load(world.installation.tdx)
    assert found is not None
    return found


def refused(world: World, code: str, *, status: int, **lies):
    tdx = world.installation.tdx
    with world.software_tdx(gpus=SoftwareGpus(tdx, board(world), **lies)), world.broker():
        outcome = world.serve()
    assert (outcome.code, outcome.status) == (code, status), outcome.output
    assert not outcome.opened
    assert not (tdx / "gpu" / "ready").exists(), "a GPU that was not verified may take work"
    return outcome


def test_a_guest_whose_gpus_are_absent_asks_for_no_key(world):
    refused(world, "gpu-unavailable", status=6, devices=())


def test_gpus_that_developer_tools_may_read_stop_the_boot(world):
    settings = CONFIDENTIAL.model_copy(update={"dev_tools_mode": 1})
    refused(world, "gpu-cc-off", status=6, settings=settings)


def test_a_recorded_gpu_report_stops_the_boot(world):
    refused(world, "gpu-nonce", status=4, replayed=bytes(32))


def test_gpus_of_another_maker_stop_the_boot(world):
    stranger = replace(board(world), nvidia=MockNvidia(bytes(32), board(world).nvidia.created))
    tdx = world.installation.tdx
    with world.software_tdx(gpus=SoftwareGpus(tdx, stranger)), world.broker():
        outcome = world.serve()
    assert (outcome.code, outcome.status) == ("gpu-chain", 4), outcome.output
    assert not outcome.opened


def test_one_gpu_that_is_shown_twice_stops_the_boot(world):
    refused(world, "gpu-duplicate", status=4, devices=2 * board(world).devices)


def test_a_gpu_with_other_firmware_than_nvidias_stops_the_boot(world):
    state, unit = board(world).devices[0]
    other = (b"\x13" * 48, *state.measurements[1:])
    refused(
        world, "gpu.measurements", status=5, devices=((replace(state, measurements=other), unit),)
    )


def test_a_genuine_gpu_too_few_gets_no_key_and_no_work(world):
    world.edit_policy(r"gpus: 1", "gpus: 2")
    outcome = refused(world, "broker-refused", status=5)
    assert outcome.why.endswith("code gpu.count"), outcome.output


def test_a_guest_that_leaves_its_gpus_out_gets_no_key(world):
    config = world.installation.config
    text = config.read_text()
    head, _, rest = text.partition("gpu:\n")
    config.write_text(f"{head}gpu: {{mode: none}}\n{rest[rest.index('broker:') :]}")
    world.installation.write_policy()
    outcome = refused(world, "broker-refused", status=5)
    assert outcome.why.endswith("code gpu.count"), outcome.output
