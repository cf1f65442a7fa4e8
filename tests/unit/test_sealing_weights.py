"""Sealing and unsealing: what is written, what comes back, and what is left after a failure."""

import os
import stat
from pathlib import Path

import pytest

from attestation.errors import ConfigError, Malformed, NotAuthentic
from attestation.safetensors import header_size, parse_header
from attestation.weights import SealedModel, is_memory_backed, seal
from tests.sealed_world import CHUNK, DEK, KEY_URI, SIGNER, audit, seal_model, write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def test_a_package_holds_no_byte_run_of_the_model(model: Path, tmp_path: Path) -> None:
    seal_model(model, tmp_path / "out")
    package = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    for path in model.iterdir():
        content = path.read_bytes()
        assert len(content) < 12 or content[-24:] not in package


def test_sealing_twice_shares_the_root_and_no_ciphertext(model: Path, tmp_path: Path) -> None:
    one = seal_model(model, tmp_path / "one")
    two = seal_model(model, tmp_path / "two", workers=1)
    assert one.weights_root == two.weights_root
    assert one.generation != two.generation
    assert one.digest != two.digest
    for path in (tmp_path / "one").glob("*.sealed"):
        data = path.read_bytes()
        assert not data or data != (tmp_path / "two" / path.name).read_bytes()


def test_small_files_come_back_for_their_owner_alone(model: Path, tmp_path: Path) -> None:
    manifest = seal_model(model, tmp_path / "out")
    opened = SealedModel.open(tmp_path / "out", signer=SIGNER.public_key())
    with opened.unlock(DEK, manifest=manifest.digest, minimum_version=1) as unlocked:
        written = unlocked.unseal_small(tmp_path / "small")
        with pytest.raises(ConfigError) as refusal:
            unlocked.unseal_small(tmp_path / "small")
    assert refusal.value.code == "unseal-target"
    assert {path.name for path in written} == {
        "config.json", "tokenizer.json", "merges.txt", "chat_template.jinja"
    }  # fmt: skip
    for path in written:
        assert path.read_bytes() == (model / path.name).read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "small").stat().st_mode) == 0o700


def test_any_span_of_a_file_can_be_read(model: Path, tmp_path: Path) -> None:
    manifest = seal_model(model, tmp_path / "out")
    opened = SealedModel.open(tmp_path / "out", signer=SIGNER.public_key())
    shard = next(file for file in manifest.files if file.role == "weights")
    content = (model / shard.path).read_bytes()
    with opened.unlock(DEK, manifest=manifest.digest, minimum_version=1) as unlocked:
        for start, end in [(0, 0), (0, 1), (CHUNK - 1, CHUNK + 1), (5, len(content) - 5),
                           (CHUNK, 2 * CHUNK), (len(content), len(content))]:  # fmt: skip
            buffer = memoryview(bytearray(end - start))
            unlocked.unseal_into(shard, buffer, offset=start)
            assert buffer == content[start:end]
        with pytest.raises(ValueError, match="bytes from"):
            unlocked.unseal_into(shard, memoryview(bytearray(2)), offset=len(content) - 1)


def test_a_chunk_is_read_into_many_places_at_once(model: Path, tmp_path: Path) -> None:
    manifest = seal_model(model, tmp_path / "out")
    opened = SealedModel.open(tmp_path / "out", signer=SIGNER.public_key())
    shard = next(file for file in manifest.files if file.role == "weights")
    content = (model / shard.path).read_bytes()[CHUNK : 2 * CHUNK]
    with opened.unlock(DEK, manifest=manifest.digest, minimum_version=1) as unlocked:
        for starts in ([], [(0, CHUNK)], [(0, 1), (1, 7), (100, CHUNK - 100)], [(33, 5)]):
            parts = [(start, memoryview(bytearray(size))) for start, size in starts]
            unlocked.begin_chunk(shard, 1, parts).wait()
            for start, part in parts:
                assert part == content[start : start + len(part)]
        for starts in ([(CHUNK, 1)], [(0, CHUNK + 1)], [(5, 2), (6, 1)], [(5, 1), (0, 1)]):
            parts = [(start, memoryview(bytearray(size))) for start, size in starts]
            with pytest.raises(ValueError, match="not in chunk 1"):
                unlocked.begin_chunk(shard, 1, parts)
    damaged = tmp_path / "out" / shard.sealed_name
    data = bytearray(damaged.read_bytes())
    data[2 * CHUNK - 1] ^= 1
    damaged.write_bytes(data)
    with opened.unlock(DEK, manifest=manifest.digest, minimum_version=1) as unlocked:
        parts = [(at, memoryview(bytearray(b"\xff" * 9))) for at in (0, 50)]
        with pytest.raises(NotAuthentic):
            unlocked.begin_chunk(shard, 1, parts).wait()
        assert all(part == bytes(9) for _, part in parts)


def test_progress_adds_up_to_every_byte(model: Path, tmp_path: Path) -> None:
    done: list[int] = []
    manifest = seal(
        model, tmp_path / "out", dek=DEK, name="tiny", version=1, key_uri=KEY_URI, signer=SIGNER,
        chunk_size=CHUNK, progress=done.append,
    )  # fmt: skip
    total = sum(path.stat().st_size for path in model.iterdir())
    assert sum(done) == total == sum(file.size for file in manifest.files)
    done.clear()
    opened = SealedModel.open(tmp_path / "out", signer=SIGNER.public_key())
    with opened.unlock(DEK, manifest=manifest.digest, minimum_version=1) as unlocked:
        unlocked.verify(progress=done.append)
    assert sum(done) == total


def test_a_model_written_to_while_it_is_sealed_leaves_nothing(model: Path, tmp_path: Path) -> None:
    shard = model / "model-00002-of-00002.safetensors"

    def meddle(_: int) -> None:
        os.utime(shard, ns=(1, 1))

    with pytest.raises(ConfigError) as refusal:
        seal(
            model, tmp_path / "out", dek=DEK, name="tiny", version=1, key_uri=KEY_URI,
            signer=SIGNER, chunk_size=CHUNK, workers=1, progress=meddle,
        )  # fmt: skip
    assert refusal.value.code == "seal-changed"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_package_is_never_sealed_over(model: Path, tmp_path: Path) -> None:
    seal_model(model, tmp_path / "out")
    with pytest.raises(ConfigError) as refusal:
        seal_model(model, tmp_path / "out")
    assert refusal.value.code == "seal-output"
    audit(tmp_path / "out", SealedModel.open(tmp_path / "out", signer=SIGNER.public_key()).manifest,
          minimum=1)  # fmt: skip


def test_a_package_is_not_written_into_the_model_or_around_it(model: Path, tmp_path: Path) -> None:
    for out in (model / "sealed", model, tmp_path):
        with pytest.raises(ConfigError) as refusal:
            seal_model(model, out)
        assert refusal.value.code == "seal-output"


def test_memory_is_told_from_disk(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    device = tmp_path.stat().st_dev
    line = f"36 35 {os.major(device)}:{os.minor(device)} / /x rw shared:1 - {{}} none rw\n"
    mounts.write_text("1 1 0:9999 / / rw - ext4 /dev/vda rw\n" + line.format("tmpfs"))
    assert is_memory_backed(tmp_path, mounts=mounts)
    mounts.write_text(line.format("ext4"))
    assert not is_memory_backed(tmp_path, mounts=mounts)
    mounts.write_text("")
    assert not is_memory_backed(tmp_path, mounts=mounts)
    assert not is_memory_backed(Path("/proc"))


def header(text: str) -> bytes:
    return text.encode()


def test_a_header_places_tensors_by_their_bytes() -> None:
    text = header(
        '{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,2],"data_offsets":[4,12]},'
        '"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}'
    )
    places = parse_header(text, file_size=8 + len(text) + 12)
    assert [(p.name, p.dtype, p.shape, p.end - p.start) for p in places] == [
        ("a", "F32", (), 4),
        ("b", "BF16", (2, 2), 8),
    ]
    assert places[0].start == 8 + len(text)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"a":1}',
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}',
        '{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}',
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}}',
        '{"a":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}}',
        '{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}',
        (
            '{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},'
            '"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}'
        ),
        '{"__metadata__":{"a":1},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        parse_header(header(text), file_size=8 + len(text) + 4)


def test_a_header_longer_than_its_file_is_refused() -> None:
    with pytest.raises(Malformed):
        header_size((93).to_bytes(8, "little"), file_size=100)
    with pytest.raises(Malformed):
        header_size(b"1234567", file_size=100)
