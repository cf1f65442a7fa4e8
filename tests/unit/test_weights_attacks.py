"""What a host that owns the disk can do to a sealed package, and the code that each attempt meets.

The rows are the published attacks on other formats for encrypted weights; every one of them
succeeds against at least one of those.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from attestation import dsse
from attestation.confidential import data_key
from attestation.errors import Malformed, NotAffirmed, NotAuthentic, Refusal
from attestation.manifest import MANIFEST, TAGS
from attestation.weights import SealedModel
from attestation.weights.unlocked import PIECE
from tests.sealed_world import (
    CHUNK,
    DEK,
    SIGNER,
    STRANGER,
    World,
    audit,
    build,
    copy,
    seal_model,
    write_model,
)

FIRST = "model-00001-of-00002.safetensors"
SECOND = "model-00002-of-00002.safetensors"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("sealed"))


@pytest.fixture
def world(pristine: World, tmp_path: Path) -> World:
    return copy(pristine, tmp_path)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def chunks(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]


def flip_a_bit_of_a_weight(w: World) -> None:
    flip(w.sealed(SECOND), -1)


def flip_a_bit_of_a_tensor_name(w: World) -> None:
    flip(w.sealed(FIRST), 12)


def flip_a_bit_of_the_chat_template(w: World) -> None:
    flip(w.sealed("chat_template.jinja"), 0)


def flip_a_bit_of_a_tag(w: World) -> None:
    flip(w.package / TAGS, 40)


def reorder_chunks(w: World) -> None:
    one, two, rest = chunks(w.sealed(FIRST))
    w.sealed(FIRST).write_bytes(two + one + rest)


def reorder_chunks_with_their_tags(w: World) -> None:
    reorder_chunks(w)
    start, _ = w.manifest.tags_span(next(f for f in w.manifest.files if f.path == FIRST))
    tags = bytearray((w.package / TAGS).read_bytes())
    tags[start : start + 32] = tags[start + 16 : start + 32] + tags[start : start + 16]
    (w.package / TAGS).write_bytes(tags)


def duplicate_a_chunk(w: World) -> None:
    one, _, rest = chunks(w.sealed(FIRST))
    w.sealed(FIRST).write_bytes(one + one + rest)


def truncate_at_a_chunk_border(w: World) -> None:
    w.sealed(FIRST).write_bytes(b"".join(chunks(w.sealed(FIRST))[:2]))


def truncate_the_tags_too(w: World) -> None:
    truncate_at_a_chunk_border(w)
    (w.package / TAGS).write_bytes((w.package / TAGS).read_bytes()[:-16])


def truncate_only_the_tags(w: World) -> None:
    (w.package / TAGS).write_bytes((w.package / TAGS).read_bytes()[:-16])


def grow_a_file(w: World) -> None:
    with w.sealed(FIRST).open("ab") as stream:
        stream.write(bytes(CHUNK))


def splice_a_chunk_of_another_shard(w: World) -> None:
    one, _, rest = chunks(w.sealed(FIRST))
    w.sealed(FIRST).write_bytes(one + chunks(w.sealed(SECOND))[1] + rest)


def swap_two_shards(w: World) -> None:
    first, second = w.sealed(FIRST), w.sealed(SECOND)
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def replay_a_shard_of_the_older_version(w: World) -> None:
    shutil.copy(w.older / w.sealed(FIRST).name, w.sealed(FIRST))


def replay_shards_and_tags_of_the_older_version(w: World) -> None:
    for path in w.older.iterdir():
        if path.name != MANIFEST:
            shutil.copy(path, w.package / path.name)


def replay_the_whole_older_package(w: World) -> None:
    for path in w.older.iterdir():
        shutil.copy(path, w.package / path.name)


def put_plaintext_in_place_of_ciphertext(w: World) -> None:
    shutil.copy(w.model / FIRST, w.sealed(FIRST))


def lay_plaintext_beside(w: World) -> None:
    shutil.copy(w.model / FIRST, w.package / FIRST)


def lay_a_pickle_beside(w: World) -> None:
    (w.package / "pytorch_model.bin").write_bytes(b"\x80\x04N.")


def lay_a_config_beside(w: World) -> None:
    (w.package / "config.json").write_text("{}")


def add_a_sealed_shard(w: World) -> None:
    shutil.copy(w.sealed(FIRST), w.package / "00099.sealed")


def add_a_hidden_file(w: World) -> None:
    (w.package / ".keys").write_bytes(b"")


def add_a_directory(w: World) -> None:
    (w.package / "more").mkdir()


def remove_a_shard(w: World) -> None:
    w.sealed(FIRST).unlink()


def remove_the_tags(w: World) -> None:
    (w.package / TAGS).unlink()


def remove_the_manifest(w: World) -> None:
    (w.package / MANIFEST).unlink()


def link_to_a_file_elsewhere(w: World) -> None:
    elsewhere = w.package.parent / "elsewhere"
    w.sealed(FIRST).rename(elsewhere)
    w.sealed(FIRST).symlink_to(elsewhere)


def link_the_manifest(w: World) -> None:
    elsewhere = w.package.parent / "elsewhere"
    (w.package / MANIFEST).rename(elsewhere)
    (w.package / MANIFEST).symlink_to(elsewhere)


def put_a_pipe_in_place_of_a_shard(w: World) -> None:
    w.sealed(FIRST).unlink()
    os.mkfifo(w.sealed(FIRST))


def put_a_pipe_in_place_of_the_manifest(w: World) -> None:
    (w.package / MANIFEST).unlink()
    os.mkfifo(w.package / MANIFEST)


def sign_with_another_key(w: World) -> None:
    path = w.package / MANIFEST
    payload = dsse.verify(path.read_bytes(), signer=SIGNER.public_key())
    path.write_bytes(dsse.sign(payload, signer=STRANGER))


def sign_with_another_key_under_the_same_key_id(w: World) -> None:
    sign_with_another_key(w)
    envelope = json.loads((w.package / MANIFEST).read_bytes())
    envelope["signatures"][0]["keyid"] = dsse.key_id(SIGNER.public_key())
    text = json.dumps(envelope, sort_keys=True, separators=(",", ":"))
    (w.package / MANIFEST).write_text(text)


def sign_with_both_keys(w: World) -> None:
    path = w.package / MANIFEST
    envelope = json.loads(path.read_bytes())
    sign_with_another_key(w)
    envelope["signatures"] += json.loads(path.read_bytes())["signatures"]
    path.write_text(json.dumps(envelope, sort_keys=True, separators=(",", ":")))


def edit_the_manifest(w: World) -> None:
    path = w.package / MANIFEST
    payload = dsse.verify(path.read_bytes(), signer=SIGNER.public_key())
    other = json.loads(dsse.sign(payload.replace(b'"version":7', b'"version":8'), signer=SIGNER))
    envelope = json.loads(path.read_bytes()) | {"payload": other["payload"]}
    path.write_text(json.dumps(envelope, sort_keys=True, separators=(",", ":")))


def respell_the_envelope(w: World) -> None:
    path = w.package / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=1))


ATTACKS: list[tuple[Callable[[World], None], type[Refusal], str]] = [
    (flip_a_bit_of_a_weight, NotAuthentic, "weights-chunk"),
    (flip_a_bit_of_a_tensor_name, NotAuthentic, "weights-chunk"),
    (flip_a_bit_of_the_chat_template, NotAuthentic, "weights-chunk"),
    (flip_a_bit_of_a_tag, NotAuthentic, "weights-tags"),
    (reorder_chunks, NotAuthentic, "weights-chunk"),
    (reorder_chunks_with_their_tags, NotAuthentic, "weights-tags"),
    (duplicate_a_chunk, NotAuthentic, "weights-chunk"),
    (truncate_at_a_chunk_border, Malformed, "weights-size"),
    (truncate_the_tags_too, Malformed, "weights-size"),
    (truncate_only_the_tags, Malformed, "weights-size"),
    (grow_a_file, Malformed, "weights-size"),
    (splice_a_chunk_of_another_shard, NotAuthentic, "weights-chunk"),
    (swap_two_shards, NotAuthentic, "weights-chunk"),
    (replay_a_shard_of_the_older_version, NotAuthentic, "weights-chunk"),
    (replay_shards_and_tags_of_the_older_version, NotAuthentic, "weights-tags"),
    (replay_the_whole_older_package, NotAffirmed, "weights-other-manifest"),
    (put_plaintext_in_place_of_ciphertext, NotAuthentic, "weights-chunk"),
    (lay_plaintext_beside, NotAuthentic, "weights-plaintext-beside"),
    (lay_a_pickle_beside, NotAuthentic, "weights-plaintext-beside"),
    (lay_a_config_beside, NotAuthentic, "weights-plaintext-beside"),
    (add_a_sealed_shard, NotAuthentic, "weights-extra-file"),
    (add_a_hidden_file, NotAuthentic, "weights-extra-file"),
    (add_a_directory, NotAuthentic, "weights-extra-file"),
    (remove_a_shard, Malformed, "weights-missing-file"),
    (remove_the_tags, Malformed, "weights-missing-file"),
    (remove_the_manifest, Malformed, "weights-missing-file"),
    (link_to_a_file_elsewhere, Malformed, "weights-missing-file"),
    (link_the_manifest, Malformed, "weights-missing-file"),
    (put_a_pipe_in_place_of_a_shard, Malformed, "weights-missing-file"),
    (put_a_pipe_in_place_of_the_manifest, Malformed, "weights-missing-file"),
    (sign_with_another_key, NotAuthentic, "manifest-signer"),
    (sign_with_another_key_under_the_same_key_id, NotAuthentic, "manifest-signer"),
    (sign_with_both_keys, Malformed, "field-invalid"),
    (edit_the_manifest, NotAuthentic, "manifest-signer"),
    (respell_the_envelope, Malformed, "dsse-malformed"),
]


@pytest.mark.parametrize(
    ("attack", "kind", "code"), ATTACKS, ids=lambda x: getattr(x, "__name__", x)
)
def test_an_attack_on_the_package_is_refused(
    world: World, attack: Callable[[World], None], kind: type[Refusal], code: str
) -> None:
    attack(world)
    with pytest.raises(kind) as refusal:
        audit(world.package, world.manifest)
    assert refusal.value.code == code


def test_an_untouched_package_is_accepted(world: World) -> None:
    audit(world.package, world.manifest)


def test_an_authentic_older_version_is_a_rollback(world: World) -> None:
    audit(world.older, world.older_manifest, minimum=6)
    with pytest.raises(NotAffirmed) as refusal:
        audit(world.older, world.older_manifest, minimum=7)
    assert refusal.value.code == "weights-rollback"


def test_another_key_is_told_apart_before_any_chunk(world: World) -> None:
    opened = SealedModel.open(world.package, signer=SIGNER.public_key())
    with pytest.raises(NotAuthentic) as refusal:
        opened.unlock(data_key(b"x" * 32), manifest=world.manifest.digest, minimum_version=7)
    assert refusal.value.code == "weights-wrong-key"


def test_a_refused_chunk_leaves_no_plaintext_in_the_buffer(world: World) -> None:
    flip_a_bit_of_a_weight(world)
    opened = SealedModel.open(world.package, signer=SIGNER.public_key())
    file = next(f for f in world.manifest.files if f.path == SECOND)
    with opened.unlock(DEK, manifest=world.manifest.digest, minimum_version=7) as model:
        buffer = memoryview(bytearray(b"\xff" * file.size))
        with pytest.raises(NotAuthentic):
            model.unseal_into(file, buffer)
        assert not any(buffer)
        tail = memoryview(bytearray(b"\xff" * 10))
        with pytest.raises(NotAuthentic):
            model.unseal_into(file, tail, offset=file.size - 20)
        assert not any(tail)


def test_a_file_that_shrinks_after_it_was_opened_is_refused(world: World) -> None:
    opened = SealedModel.open(world.package, signer=SIGNER.public_key())
    truncate_at_a_chunk_border(world)
    with (
        opened.unlock(DEK, manifest=world.manifest.digest, minimum_version=7) as model,
        pytest.raises(Malformed) as refusal,
    ):
        model.verify()
    assert refusal.value.code == "weights-size"


def test_a_chunk_whose_later_pieces_are_gone_leaves_nothing(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", shard_bytes=3 * PIECE)
    manifest = seal_model(model, tmp_path / "out", version=7, chunk_size=4 * PIECE)
    opened = SealedModel.open(tmp_path / "out", signer=SIGNER.public_key())
    file = next(file for file in manifest.files if file.role == "weights")
    gap, buffer = slice(PIECE // 2, 2 * PIECE + 1), bytearray(b"\xff" * file.size)
    whole = memoryview(buffer)
    parts = [(0, whole[: gap.start]), (gap.stop, whole[gap.stop :])]
    with opened.unlock(DEK, manifest=manifest.digest, minimum_version=7) as unlocked:
        unlocked.begin_chunk(file, 0, parts).wait()
        content = bytearray((model / file.path).read_bytes())
        content[gap] = b"\xff" * (gap.stop - gap.start)
        assert buffer == content
        os.truncate(tmp_path / "out" / file.sealed_name, 2 * PIECE + 5)
        with pytest.raises(Malformed) as refusal:
            unlocked.begin_chunk(file, 0, parts).wait()
    assert refusal.value.code == "weights-size"
    assert not any(buffer[: gap.start])
    assert not any(buffer[gap.stop :])


def test_nothing_small_is_written_when_one_of_the_files_is_refused(
    world: World, tmp_path: Path
) -> None:
    flip_a_bit_of_the_chat_template(world)
    opened = SealedModel.open(world.package, signer=SIGNER.public_key())
    with (
        opened.unlock(DEK, manifest=world.manifest.digest, minimum_version=7) as model,
        pytest.raises(NotAuthentic),
    ):
        model.unseal_small(tmp_path / "small")
    assert not (tmp_path / "small").exists()
