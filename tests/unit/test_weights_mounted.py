"""A model on a mounted volume: only what was signed, and only under dm-verity."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from attestation.errors import Refusal
from attestation.manifest import MANIFEST
from attestation.weights import KernelBlockLayer, MountedModel
from tests import sealed_world
from tests.block_layer import ROOT, Volume, line, mount_line
from tests.sealed_world import SIGNER, STRANGER


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> Path:
    """Return a model's directory with the manifest that its sealing signed."""
    world = sealed_world.build(tmp_path_factory.mktemp("verity"))
    shutil.copy(world.package / MANIFEST, world.model / MANIFEST)
    return world.model


@pytest.fixture
def copied(volume, tmp_path) -> Path:
    """Return a copy that a test may damage."""
    return shutil.copytree(volume, tmp_path / "volume")


def opened(directory: Path, kernel: Volume | KernelBlockLayer | None = None, **changes):
    layer = Volume.at(directory) if kernel is None else kernel
    wanted = {"root_hash": ROOT, "signer": SIGNER.public_key(), "kernel": layer, **changes}
    return MountedModel.open(directory, **wanted)


def refusal(directory: Path, **changes) -> str:
    with pytest.raises(Refusal) as refused:
        opened(directory, **changes)
    return refused.value.code


def test_a_volume_that_holds_what_was_signed_is_opened(volume):
    model = opened(volume)
    assert model.directory == volume
    assert model.manifest.model == "tiny"


def test_an_ordinary_directory_is_refused_by_this_kernel(volume):
    assert refusal(volume, kernel=KernelBlockLayer()) == "verity-not-mounted"


def test_a_link_to_a_volume_is_not_followed(volume, tmp_path):
    (tmp_path / "link").symlink_to(volume)
    assert refusal(tmp_path / "link") == "weights-unreadable"


def test_a_volume_under_another_root_hash_is_not_read(copied):
    (copied / MANIFEST).unlink()  # what comes first decides
    assert refusal(copied, root_hash=bytes(32)) == "verity-root"


def test_a_device_that_is_not_mapped_is_refused(volume):
    kernel = Volume.at(volume)
    kernel.mapped = False
    assert refusal(volume, kernel=kernel) == "verity-device"


def test_a_device_that_passes_bad_blocks_is_refused(volume):
    kernel = Volume.at(volume)
    kernel.parameters = line(options=" 1 ignore_corruption")
    assert refusal(volume, kernel=kernel) == "verity-options"


def test_a_file_mounted_over_one_of_the_volume_is_refused(volume):
    kernel = Volume.at(volume)
    kernel.mounts += mount_line(f"{volume}/config.json", number=41) + "\n"
    assert refusal(volume, kernel=kernel) == "verity-mount"


def test_an_overlay_over_the_volume_is_refused(volume):
    kernel = Volume.at(volume)
    kernel.mounts = kernel.mounts.replace(" erofs ", " overlay ")
    assert refusal(volume, kernel=kernel) == "verity-mount"


def test_a_manifest_of_another_signer_is_refused(volume):
    assert refusal(volume, signer=STRANGER.public_key()) == "manifest-signer"


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "chat_template.jinja", "weights"]
)
def test_a_file_that_is_not_what_was_signed_is_refused(copied, name):
    path = next(copied.glob("*00002*.safetensors")) if name == "weights" else copied / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert refusal(copied) == "weights-content"


def test_files_that_were_swapped_are_refused(copied):
    first, second = sorted(copied.glob("*.safetensors"))
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)
    assert refusal(copied) == "weights-content"


def test_a_file_that_was_cut_is_refused(copied):
    with (copied / "config.json").open("r+b") as stream:
        stream.truncate(3)
    assert refusal(copied) == "weights-size"


def test_a_file_that_is_missing_is_refused(copied):
    (copied / "tokenizer.json").unlink()
    assert refusal(copied) == "weights-missing-file"


@pytest.mark.parametrize("name", ["adapter_config.json", "deeper/model.safetensors", ".hidden"])
def test_a_file_that_nobody_signed_is_refused(copied, name):
    (copied / name).parent.mkdir(exist_ok=True)
    (copied / name).write_bytes(b"{}")
    assert refusal(copied) == "weights-extra-file"


def test_a_link_in_place_of_a_file_is_refused(copied, tmp_path):
    (copied / "config.json").rename(tmp_path / "config.json")
    (copied / "config.json").symlink_to(tmp_path / "config.json")
    assert refusal(copied) == "weights-missing-file"


def test_a_link_to_a_directory_is_no_directory(copied, tmp_path):
    (copied / "more").symlink_to(tmp_path)
    assert refusal(copied) == "weights-extra-file"


def test_the_pin_is_what_veritysetup_prints(copied, tmp_path):
    """Hash an image with Debian's own tool, and change a block of it."""
    tool = shutil.which("veritysetup") or shutil.which("veritysetup", path="/usr/sbin:/sbin")
    if tool is None:
        pytest.skip("veritysetup (Debian package cryptsetup-bin) is not installed")
    image, tree = tmp_path / "image", tmp_path / "tree"
    held = b"".join(path.read_bytes() for path in sorted(copied.glob("*")) if path.is_file())
    image.write_bytes(held.ljust(-(-len(held) // 4096) * 4096, b"\0"))
    said = subprocess.run(
        [tool, "format", image, tree], check=True, capture_output=True, text=True
    ).stdout
    (root,) = re.findall(r"^Root hash:\s+([0-9a-f]{64})$", said, re.MULTILINE)
    (salt,) = re.findall(r"^Salt:\s+([0-9a-f]+)$", said, re.MULTILINE)
    blocks = image.stat().st_size // 4096
    parameters = f"1 7:0 7:1 4096 4096 {blocks} 1 sha256 {root} {salt}"
    kernel = Volume.at(copied)
    kernel.parameters = parameters
    assert opened(copied, kernel, root_hash=bytes.fromhex(root)).manifest.version == 7
    subprocess.run([tool, "verify", image, tree, root], check=True, capture_output=True)
    with image.open("r+b") as stream:
        stream.write(b"\xff")
    broken = subprocess.run([tool, "verify", image, tree, root], check=False, capture_output=True)
    assert broken.returncode != 0
