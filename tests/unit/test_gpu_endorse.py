"""Where GPU endorsements come from: a file beside Intel's collateral."""

from attestation.endorse import FileEndorser
from attestation.gpu.evidence import GpuEndorsements
from attestation.tdx.quote import collateral_key
from tests.appraisal_world import NOW, World
from tests.gpu_world import GpuWorld


def directory(tmp_path, *, store):
    world = GpuWorld()
    quote = world.sent().quote
    endorsed = World().guest().endorsements(NOW)
    (tmp_path / f"{collateral_key(quote)}.json").write_bytes(endorsed.tdx)
    if store is not None:
        (tmp_path / "nvidia.json").write_bytes(store)
    return FileEndorser(tmp_path).endorsements(quote)


def test_a_directory_of_collateral_may_hold_nvidias_statements_too(tmp_path):
    store = GpuWorld().store().to_bytes()
    assert GpuEndorsements.parse(directory(tmp_path, store=store).gpu) == GpuWorld().store()


def test_a_directory_without_them_endorses_no_gpu(tmp_path):
    assert directory(tmp_path, store=None).gpu == b""
