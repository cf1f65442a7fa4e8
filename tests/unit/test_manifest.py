"""Manifests: what a trusted signer may say, and the names and sums that are refused even so."""

import json
from typing import Any

import pytest

from attestation import dsse
from attestation.codec import canonical_json
from attestation.errors import Malformed, NotAuthentic
from attestation.manifest import Manifest, SealedFile, issue
from attestation.types import Digest
from tests.sealed_world import CHUNK, SIGNER, STRANGER

FILES = (
    SealedFile(0, "config", "config.json", 10, 1, "1" * 64, "a" * 64),
    SealedFile(1, "weights", "model.safetensors", 3 * CHUNK, 3, "2" * 64, "b" * 64),
    SealedFile(2, "tokenizer", "sub/tokenizer.json", 0, 0, "3" * 64, "c" * 64),
)


def envelope() -> bytes:
    return issue(
        FILES,
        model="qwen3",
        version=4,
        source="hf:Qwen/Qwen3-8B@b968826",
        generation=bytes(range(32)),
        chunk_size=CHUNK,
        key="kbs:///tacit/model/qwen3",
        key_commitment=bytes(32),
        signer=SIGNER,
    )


def statement() -> Any:
    return json.loads(dsse.verify(envelope(), signer=SIGNER.public_key()))


def signed(changed: Any) -> bytes:
    return dsse.sign(canonical_json(changed), signer=SIGNER)


def with_path(path: str, *, at: int = 0) -> bytes:
    changed = statement()
    changed["subject"][at]["name"] = changed["predicate"]["files"][at]["path"] = path
    return signed(changed)


def refused(data: bytes) -> str:
    with pytest.raises(Malformed) as refusal:
        Manifest.open(data, signer=SIGNER.public_key())
    return refusal.value.code


def test_an_issued_manifest_opens_to_what_was_said() -> None:
    manifest = Manifest.open(envelope(), signer=SIGNER.public_key())
    assert manifest.files == FILES
    assert (manifest.model, manifest.version, manifest.chunk_size) == ("qwen3", 4, CHUNK)
    assert manifest.key == "kbs:///tacit/model/qwen3"
    payload = dsse.verify(envelope(), signer=SIGNER.public_key())
    assert manifest.digest == Digest.sha256(payload)


def test_it_is_an_in_toto_statement_about_the_plaintext() -> None:
    said = statement()
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["predicateType"] == "tag:tacit-inference,2026:sealed-weights/v1"
    assert said["subject"][1] == {"name": "model.safetensors", "digest": {"sha256": "b" * 64}}


def test_a_stranger_is_refused() -> None:
    with pytest.raises(NotAuthentic) as refusal:
        Manifest.open(envelope(), signer=STRANGER.public_key())
    assert refusal.value.code == "manifest-signer"


def test_tags_lie_in_the_order_of_files() -> None:
    manifest = Manifest.open(envelope(), signer=SIGNER.public_key())
    assert [manifest.tags_span(file) for file in FILES] == [(0, 16), (16, 64), (64, 64)]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../config.json",
        "a/../config.json",
        "./config.json",
        "a//config.json",
        "a/",
        "a\\config.json",
        "C:config.json",
        "config.json\0",
        "config.json\n",
        ".hidden.json",
        "sub/.hidden.json",
        "..",
        "\uff43onfig.json",
        "a/b/c/d/e.json",
        "x" * 128 + ".json",
        "manifest.dsse.json",
        "Manifest.DSSE.json",
        "tags.bin",
        "00001.sealed",
    ],
)
def test_a_path_that_could_reach_another_file_is_refused(path: str) -> None:
    assert refused(with_path(path)) == "manifest-malformed"


@pytest.mark.parametrize(
    "path", ["sub/tokenizer.json", "SUB/Tokenizer.json", "sub", "Sub", "sub/tokenizer.json/x.json"]
)
def test_two_files_cannot_share_a_place_on_any_file_system(path: str) -> None:
    assert refused(with_path(path)) == "manifest-malformed"


@pytest.mark.parametrize("path", ["model.bin", "model.pt", "MODEL.json"])
def test_weights_are_safetensors(path: str) -> None:
    assert refused(with_path(path, at=1)) == "manifest-malformed"


def test_safetensors_are_weights() -> None:
    assert refused(with_path("extra.SAFETENSORS", at=0)) == "manifest-malformed"


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("version", 0, "field-invalid"),
        ("version", "4", "field-invalid"),
        ("version", 4.0, "field-invalid"),
        ("generation", "00", "field-invalid"),
        ("generation", "A" * 64, "field-invalid"),
        ("chunk_size", CHUNK // 2, "manifest-malformed"),
        ("chunk_size", CHUNK + 1, "manifest-malformed"),
        ("chunk_size", CHUNK * 32, "manifest-malformed"),
        ("chunk_size", CHUNK * 2, "manifest-malformed"),  # the counts no longer fit
        ("key", "kbs://host/tacit/model/qwen3", "field-invalid"),
        ("key", "kbs:///tacit/model", "field-invalid"),
        ("key", "kbs:///tacit/../qwen3", "field-invalid"),
        ("weights_root", "0" * 64, "manifest-malformed"),
        ("files", [], "field-invalid"),
        ("model", "qwen3\n", "field-invalid"),
        ("jku", "https://example.com", "field-invalid"),
    ],
)
def test_a_field_out_of_its_bounds_is_refused(field: str, value: object, code: str) -> None:
    changed = statement()
    changed["predicate"][field] = value
    # canonical_json writes no floats; a manifest made elsewhere could hold one
    data = json.dumps(changed).encode()
    assert refused(dsse.sign(data, signer=SIGNER)) == code


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", 5), ("chunks", 4), ("size", 10 * CHUNK), ("role", "other"), ("size", -1)],
)
def test_a_file_whose_numbers_do_not_add_up_is_refused(field: str, value: object) -> None:
    changed = statement()
    changed["predicate"]["files"][1][field] = value
    assert refused(signed(changed)) in {"manifest-malformed", "field-invalid"}


def test_subjects_and_files_are_one_list() -> None:
    fewer, other, swapped = statement(), statement(), statement()
    fewer["subject"].pop()
    other["subject"][2]["name"] = "sub/other.json"
    swapped["subject"].reverse()
    for changed in (fewer, other, swapped):
        assert refused(signed(changed)) == "manifest-malformed"


def test_the_root_covers_the_plaintext_digests() -> None:
    changed = statement()
    changed["subject"][0]["digest"]["sha256"] = "d" * 64
    assert refused(signed(changed)) == "manifest-malformed"


def test_a_model_has_weights() -> None:
    changed = statement()
    changed["subject"], changed["predicate"]["files"] = (
        changed["subject"][:1],
        changed["predicate"]["files"][:1],
    )
    assert refused(signed(changed)) == "manifest-malformed"


def test_another_kind_of_statement_is_refused() -> None:
    for name in ("_type", "predicateType"):
        assert refused(signed(statement() | {name: "https://example.com/v1"})) == "field-invalid"
    assert refused(signed(statement() | {"more": 1})) == "field-invalid"
