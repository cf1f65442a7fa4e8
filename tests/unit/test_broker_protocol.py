"""KBS 0.4.0 messages: exactly the protocol's shapes, its names and its rule for MRCONFIGID."""

import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from attestation.binding import KbsBinding
from attestation.broker.protocol import (
    Attestation,
    InitData,
    Request,
    resource_path,
    tee_pubkey,
)
from attestation.codec import parse_json
from attestation.errors import Malformed, Refusal
from attestation.evidence import Evidence

KEY = tee_pubkey(ec.generate_private_key(ec.SECP256R1()).public_key())
EVIDENCE = Evidence(b"quote", b"log", b"", KbsBinding("bm9uY2U=", KEY, ""))


def message(**changes):
    return parse_json(Attestation.build(EVIDENCE).to_bytes()) | changes


def parse(document):
    return Attestation.parse(json.dumps(document).encode())


def test_a_request_of_guest_components_is_understood():
    body = (
        b'{"version":"0.4.0","tee":"tdx","extra-params":{"supported-hash-algorithms":["sha256"]}}'
    )
    assert Request.parse(body).tee == "tdx"


@pytest.mark.parametrize("version", ["0.3.1", "0.4.1", "0.4", "=0.4.0", "0.4.0 "])
def test_another_version_is_refused(version):
    body = json.dumps({"version": version, "tee": "tdx", "extra-params": ""}).encode()
    with pytest.raises(Malformed) as refused:
        Request.parse(body)
    assert refused.value.code == "kbs-version"


def test_an_attestation_has_the_protocol_s_names():
    assert message() == {
        "init-data": None,
        "runtime-data": {"nonce": "bm9uY2U=", "tee-pubkey": KEY},
        "tee-evidence": {
            "primary_evidence": {"cc_eventlog": "bG9n", "quote": "cXVvdGU="},
            "additional_evidence": "",
        },
    }


def test_evidence_survives_the_message():
    assert parse(message()).evidence() == EVIDENCE


def test_a_guest_without_an_event_log_sends_null():
    document = message()
    document["tee-evidence"]["primary_evidence"]["cc_eventlog"] = None
    assert parse(document).evidence().event_log == b""


@pytest.mark.parametrize(
    "key",
    [
        KEY | {"x": KEY["y"], "y": KEY["x"]},
        KEY | {"crv": "P-521"},
        KEY | {"crv": "P-384"},
        KEY | {"x": KEY["x"] + "A"},
        KEY | {"alg": "ECDH-ES"},
        KEY | {"d": "AA"},
        {"kty": "RSA", "alg": "RSA-OAEP-256", "n": "AQAB", "e": "AQAB"},
        {"kty": "RSA", "alg": "RSA1_5", "n": "AQAB", "e": "AQAB"},
        {"kty": "AKP", "alg": "ML-KEM-768+A192KW", "pub": "AA"},
    ],
)
def test_a_key_nothing_should_be_sealed_to_is_refused(key):
    document = message()
    document["runtime-data"]["tee-pubkey"] = key
    with pytest.raises(Malformed):
        parse(document)


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_mrconfigid_is_the_digest_of_the_document_cut_or_filled_to_48(algorithm):
    body = f'algorithm = "{algorithm}"\nversion = "0.1.0"\n[data]\n'
    digest = hashlib.new(algorithm, body.encode()).digest()
    assert InitData(format="toml", body=body).mr_config_id() == (digest + bytes(48))[:48]


@pytest.mark.parametrize(
    ("form", "body"),
    [
        ("toml", "algorithm = "),
        ("toml", 'algorithm = "md5"'),
        ("toml", "a = " + "[" * 5000),
        ("json", '{"algorithm": "sm3"}'),
        ("json", "[]"),
        ("json", "[" * 5000),
    ],
)
def test_init_data_without_a_known_algorithm_is_refused(form, body):
    with pytest.raises(Malformed):
        InitData(format=form, body=body).mr_config_id()


@pytest.mark.parametrize(
    "path", ["a/b/c", "tacit/demo/qwen3-0.6b", "_/-/x.y.z", "a" * 300 + "/b/c"]
)
def test_resource_names_of_the_grammar(path):
    assert resource_path(path) == path


@pytest.mark.parametrize(
    "path",
    ["", "a/b", "a/b/c/d", "a//c", "../b/c", "a/.b/c", "a/b/c\n", "a/b/ü", "a/b/c d", "/a/b/c"],
)
def test_resource_names_outside_the_grammar(path):
    with pytest.raises(Malformed):
        resource_path(path)


@given(st.binary(max_size=300))
def test_bytes_are_an_attestation_or_a_refusal(data):
    for kind in (Attestation, Request):
        with pytest.raises(Refusal):
            kind.parse(data)


def test_a_lone_surrogate_is_refused_before_it_is_hashed():
    document = message()
    body = json.dumps(document).replace(
        '"additional_evidence": ""', '"additional_evidence": "\\ud800"'
    )
    with pytest.raises(Malformed):
        Attestation.parse(body.encode())
