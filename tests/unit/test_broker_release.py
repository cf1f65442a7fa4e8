"""What the broker decides, without HTTP: whom a policy affirms, and what is released to whom."""

import json
import re
from dataclasses import replace
from datetime import timedelta

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.binding import KbsBinding, KeysetBinding
from attestation.broker.app import open_broker
from attestation.broker.keyfile import WrappedKey
from attestation.broker.protocol import Attestation, tee_pubkey
from attestation.broker.release import recipient, release
from attestation.broker.settings import BrokerSettings
from attestation.errors import ConfigError, Malformed, NotAffirmed, NotAuthentic, Undecidable
from attestation.keyset import Keyset, Posture, ServedModel
from attestation.policy import Policy
from attestation.types import Nonce
from attestation.verifier import Verifier
from tests.broker_world import CONFIG, MANIFEST, MODEL_KEY, NOW, SECRET, World

REQUEST = b'{"version":"0.4.0","tee":"tdx","extra-params":""}'


@pytest.fixture(name="world")
def _world(tmp_path):
    return World.create(tmp_path)


@pytest.fixture(name="broker")
def _broker(world):
    broker = world.broker()
    yield broker
    broker.store.close()


def affirmed(world, policy, *, binding=None):
    key = tee_pubkey(ec.generate_private_key(ec.SECP256R1()).public_key())
    binding = binding or KbsBinding("nonce", key, "")
    guest = world.guest()
    result = Verifier(policy).verify(
        guest.evidence(binding), guest.endorsements(), expected_nonce=binding.nonce, now=NOW
    )
    return result.affirmed(NOW)


def attest(world, broker):
    session, challenge = broker.challenge(REQUEST)
    key = tee_pubkey(ec.generate_private_key(ec.SECP256R1()).public_key())
    evidence = world.guest().evidence(KbsBinding(json.loads(challenge)["nonce"], key, ""))
    broker.attest(session.id, Attestation.build(evidence).to_bytes())
    return session


def test_a_result_that_has_ended_opens_nothing(world, broker):
    resource = broker.resources[MODEL_KEY]
    accepted = affirmed(world, resource.policy)
    release(resource, accepted, kek=broker.kek, now=NOW)
    with pytest.raises(NotAffirmed) as refused:
        release(resource, accepted, kek=broker.kek, now=accepted.expires_at)
    assert refused.value.code == "affirmation-expired"


def test_a_key_whose_binding_was_edited_does_not_open(world, broker):
    resource = broker.resources[MODEL_KEY]
    assert isinstance(resource.wrapped, WrappedKey)
    lowered = replace(resource, wrapped=resource.wrapped.model_copy(update={"minimum_version": 1}))
    with pytest.raises(Undecidable) as refused:
        release(lowered, affirmed(world, resource.policy), kek=broker.kek, now=NOW)
    assert refused.value.code == "kek-mismatch"


def test_evidence_for_a_client_is_no_key_request(world, broker):
    keyset = Keyset(
        version=1,
        tls_spki="sha256:" + "11" * 32,
        config=str(CONFIG),
        models=(ServedModel(name="qwen3", manifest=str(MANIFEST), weights="sealed"),),
        posture=Posture(
            retention="none",
            training="none",
            operator="o",
            jurisdiction="j",
            engine="e",
            audit=(),
            filters=(),
            telemetry=(),
        ),
    )
    accepted = affirmed(world, broker.policy, binding=KeysetBinding(Nonce(b"n" * 32), keyset))
    with pytest.raises(Malformed) as refused:
        recipient(accepted)
    assert refused.value.code == "tee-pubkey"


def test_simulated_evidence_means_nothing_under_intel_s_root(world, broker):
    text = (
        world.path("default.yaml").read_text().replace("profile: simulated", "profile: production")
    )
    text = re.sub(r"root:\n  simulated: \|\n(    .*\n)+", "root: intel\n", text)
    production = replace(broker, policy=Policy.load(text.encode(), name="production.yaml"))
    with pytest.raises(NotAuthentic) as refused:
        attest(world, production)
    # the collateral is the first thing whose chain is followed
    assert refused.value.code in ("tdx-chain", "collateral-signature")
    assert [item for item in production.store.releases() if b"attested" in item.entry] == []


def test_gpu_evidence_that_nobody_checked_is_never_a_pass(world, broker):
    session, challenge = broker.challenge(REQUEST)
    key = tee_pubkey(ec.generate_private_key(ec.SECP256R1()).public_key())
    binding = KbsBinding(json.loads(challenge)["nonce"], key, '{"nvidia":{}}')
    with pytest.raises(Undecidable):
        broker.attest(session.id, Attestation.build(world.guest().evidence(binding)).to_bytes())


def test_the_log_names_the_session_by_its_digest_only(world, broker):
    session = attest(world, broker)
    broker.resource(session.id, SECRET)
    logged = b"".join(item.entry for item in broker.store.releases())
    assert session.id.encode() not in logged
    assert session.nonce.encode() not in logged


def test_expired_sessions_release_nothing(world, broker):
    session = attest(world, broker)
    world.now += timedelta(seconds=300)
    with pytest.raises(NotAuthentic) as refused:
        broker.resource(session.id, SECRET)
    assert refused.value.code == "session-expired"


def change(world, **changes):
    return open_broker(BrokerSettings.load(world.write_config(**changes)), clock=lambda: NOW)


def test_production_keeps_its_kek_elsewhere(world):
    with pytest.raises(ConfigError, match="KMS or an HSM"):
        change(world, profile="production")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"kek": "openbao:x"}, "kek-uri"),
        ({"store": "sqlite:missing/dir/broker.db"}, "broker-store-url"),
        ({"store": "mysql://x"}, "config-invalid"),
        ({"token_key": "kek"}, "token-key"),
        ({"policy": "absent.yaml"}, "config-file-missing"),
        ({"resources": []}, "config-invalid"),
        ({"more": 1}, "config-invalid"),
    ],
)
def test_a_configuration_that_would_not_hold_is_refused(world, changes, code):
    with pytest.raises(ConfigError) as refused:
        change(world, **changes)
    assert refused.value.code == code


def test_a_file_with_another_resource_than_it_is_listed_for_is_refused(world):
    document = yaml.safe_load(world.path("broker.yaml").read_text())
    document["resources"][0]["resource"] = "tacit/demo/other"
    with pytest.raises(ConfigError) as refused:
        change(world, resources=document["resources"])
    assert refused.value.code == "wrapped-key"


def test_a_production_broker_refuses_a_simulated_policy(world):
    world.write_config(profile="production", kek="openbao:transit/x")
    settings = world.settings()
    with pytest.raises(ConfigError, match="a production broker with simulated"):
        settings.policy()


def test_another_kek_is_noticed_before_the_first_guest(world):
    from attestation.broker.kek import create_file_kek

    create_file_kek(world.path("other"))
    with pytest.raises(ConfigError) as refused:
        change(world, kek="file:other")
    assert refused.value.code == "kek-mismatch"
