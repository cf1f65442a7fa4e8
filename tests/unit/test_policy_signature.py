"""Signed policies: whose they are, that nothing in them changed, and that old ones stay old."""

import json
import re

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from attestation import dsse
from attestation.broker.settings import BrokerSettings
from attestation.cli import main
from attestation.client import RelyingParty
from attestation.codec import canonical_json
from attestation.errors import ConfigError, Malformed
from attestation.policy import Policy
from attestation.policy_signature import PAYLOAD_TYPE, sign_policy
from tests.appraisal_world import policy_text
from tests.broker_world import World

KEY = Ed25519PrivateKey.generate()
TEXT = policy_text(simulated=False).encode()
SIGNED = sign_policy(TEXT, number=7, signer=KEY)


def load(data: bytes, *, key=KEY, minimum: int = 1) -> Policy:
    return Policy.load_signed(data, signer=key.public_key(), name="bank", minimum=minimum)


def refused(data: bytes, **how) -> str:
    with pytest.raises(ConfigError) as refusal:
        load(data, **how)
    return refusal.value.code


def test_a_signed_policy_is_the_same_policy_with_a_signer():
    plain, signed = Policy.load(TEXT, name="bank"), load(SIGNED)
    assert (signed.file, signed.digest) == (plain.file, plain.digest)
    assert plain.signature is None
    assert signed.signature.number == 7
    assert signed.signature.key_id == dsse.key_id(KEY.public_key())
    signed.require_signature()


def test_production_relies_on_no_unsigned_policy_and_simulation_may():
    with pytest.raises(ConfigError) as refusal:
        Policy.load(TEXT, name="bank").require_signature()
    assert refusal.value.code == "policy-unsigned"
    Policy.load(policy_text().encode(), name="bank").require_signature()


def test_a_client_does_not_begin_with_an_unsigned_production_policy():
    with pytest.raises(ConfigError, match="policy-unsigned"):
        RelyingParty("https://service.example", Policy.load(TEXT, name="bank"))
    RelyingParty("https://service.example", load(SIGNED))


def test_a_bare_policy_is_unsigned_even_where_a_signer_is_named():
    assert refused(TEXT) == "policy-unsigned"


def test_a_signed_policy_is_not_read_without_its_signer():
    with pytest.raises(ConfigError, match="policy-signature"):
        Policy.load(SIGNED, name="bank")


def test_a_policy_of_another_signer_is_refused():
    assert refused(SIGNED, key=Ed25519PrivateKey.generate()) == "policy-signature"


def test_an_older_policy_of_the_same_signer_is_refused():
    assert refused(SIGNED, minimum=8) == "policy-rollback"
    assert load(SIGNED, minimum=7).signature.number == 7


@given(st.integers(1, len(SIGNED) * 8 - 1))
def test_no_bit_of_a_signed_policy_can_be_flipped(bit):
    data = bytearray(SIGNED)
    data[bit // 8] ^= 1 << bit % 8
    assert refused(bytes(data)) in {"policy-signature", "policy-unsigned"}


@pytest.mark.parametrize(
    "statement",
    [
        {"version": 1, "number": 0, "policy": TEXT.decode()},
        {"version": 2, "number": 1, "policy": TEXT.decode()},
        {"version": 1, "policy": TEXT.decode()},
        {"version": 1, "number": 1, "policy": TEXT.decode(), "until": 1},
    ],
)
def test_a_signed_statement_of_another_shape_is_refused(statement):
    data = dsse.sign(canonical_json(statement), signer=KEY, payload_type=PAYLOAD_TYPE)
    assert refused(data) == "policy-signature"


def test_a_signature_for_a_manifest_does_not_sign_a_policy_nor_the_reverse():
    payload = canonical_json({"version": 1, "number": 1, "policy": TEXT.decode()})
    assert refused(dsse.sign(payload, signer=KEY)) == "policy-signature"
    with pytest.raises(Malformed):
        dsse.verify(SIGNED, signer=KEY.public_key())


def test_what_is_signed_must_still_load():
    assert refused(sign_policy(b"version: 1\n", number=1, signer=KEY)) == "policy-invalid"


# -- the broker -----------------------------------------------------------------------------------


@pytest.fixture
def broker(tmp_path, files):
    """Return a way to load the settings of a production broker with changed policy fields."""
    (tmp_path / "broker").mkdir()
    world = World.create(tmp_path / "broker")
    text = (
        world.path("default.yaml").read_text().replace("profile: simulated", "profile: production")
    )
    text = re.sub(r"root:\n  simulated: \|\n(    .*\n)+", "root: intel\n", text).encode()
    world.path("default.yaml").write_bytes(text)
    world.path("signed.json").write_bytes(sign_policy(text, number=7, signer=KEY))
    world.path("key.pub").write_bytes((files / "key.pub").read_bytes())

    def settings(**changes):
        world.write_config(profile="production", kek="openbao:https://h/transit/k")
        document = yaml.safe_load(world.path("broker.yaml").read_text())
        world.path("broker.yaml").write_text(yaml.safe_dump({**document, **changes}))
        return BrokerSettings.load(world.path("broker.yaml"))

    return settings


def test_a_production_broker_refuses_an_unsigned_policy(broker):
    for changes in ({}, {"policy_signer": "key.pub"}):
        with pytest.raises(ConfigError, match="policy-unsigned"):
            broker(policy="default.yaml", **changes).policy()


def test_a_production_broker_takes_a_signed_policy_and_none_older_than_it_says(broker):
    signed = {"policy": "signed.json", "policy_signer": "key.pub"}
    assert broker(**signed).policy().signature.number == 7
    with pytest.raises(ConfigError, match="policy-rollback"):
        broker(**signed, policy_minimum=8).policy()


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    (tmp_path / "bank.yaml").write_bytes(TEXT)
    (tmp_path / "key.pem").write_bytes(
        KEY.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (tmp_path / "key.pub").write_bytes(
        KEY.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return tmp_path


def sign(files, number: int) -> int:
    arguments = ["--key", str(files / "key.pem"), "--number", str(number)]
    return main(["policy", "sign", str(files / "bank.yaml"), *arguments])


def test_policy_sign_writes_what_policy_check_reads(files, capsys):
    assert sign(files, 3) == 0
    signed = files / "bank.yaml.dsse.json"
    assert load(signed.read_bytes()).signature.number == 3
    capsys.readouterr()
    command = ["policy", "check", str(signed), "--policy-signer", str(files / "key.pub"), "--json"]
    assert main(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["number"], document["signed_by"]) == (3, dsse.key_id(KEY.public_key()))


@pytest.mark.parametrize("number", [0, -1, 2**53])
def test_numbers_count_from_one(files, number):
    assert sign(files, number) == 2
    assert not (files / "bank.yaml.dsse.json").exists()


def test_a_policy_that_does_not_load_is_not_signed(files, capsys):
    (files / "bank.yaml").write_text("version: 1\n")
    assert sign(files, 1) == 2
    assert "policy-invalid" in capsys.readouterr().err
