"""Boot's key request over real TLS: each way to be refused has its own code, and nothing leaks."""

from __future__ import annotations

import datetime as dt
import sqlite3
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import KeySet

from attestation.binding import KbsBinding
from attestation.broker.protocol import tee_pubkey
from attestation.broker.releaselog import verify_chain
from attestation.codec import parse_json, unb64
from attestation.errors import NotAffirmed, NotAuthentic, Undecidable
from attestation.simulator.intel import MockIntel, Statements
from attestation.simulator.statements import TcbInfo
from attestation.types import Digest
from tests.broker_world import (
    DEK,
    MANIFEST,
    MODEL_KEY,
    PEPPER,
    SECRET,
    World,
    attested,
    bound,
    code_of,
    measured_guest,
    plain_http,
    raw_attest,
    write_tls,
)


@pytest.fixture(name="world")
def _world(tmp_path):
    return World.create(tmp_path)


@pytest.fixture(name="served")
def _served(world):
    with world.serving() as (broker, url):
        yield world, broker, url


def entries(broker):
    return [parse_json(item.entry) for item in broker.store.releases()]


def test_an_affirmed_guest_gets_the_key_and_what_it_may_be_used_with(served):
    world, broker, url = served
    client = attested(world, url)
    key = client.model_key(MODEL_KEY).reveal()
    assert (unb64(key.dek, what="dek"), key.manifest) == (DEK, str(MANIFEST))
    assert key.minimum_version == 3
    assert client.resource(SECRET).reveal() == PEPPER
    assert verify_chain(broker.store.releases()).size == 5
    assert [(e["event"], e["resource"]) for e in entries(broker)[2:]] == [
        ("attested", None),
        ("released", MODEL_KEY),
        ("released", SECRET),
    ]
    assert all(e["simulated"] for e in entries(broker)[2:])


def test_the_token_verifies_with_the_published_key_and_says_simulated(served):
    world, _, url = served
    client = world.client(url)
    token = client.attest(bound(client, client.challenge(), world.guest()))
    with plain_http(url) as http:
        keys = KeySet.import_key_set(http.get("/.well-known/jwks.json").json())
    claims = jwt.decode(token, keys, algorithms=["ES256"]).claims
    cpu = claims["submods"]["cpu0"]
    assert cpu["ear.status"] == "contraindicated"
    assert cpu["tacit.simulated"] is True
    annotated = cpu["ear.veraison.annotated-evidence"]
    assert annotated["runtime_data_claims"]["tee-pubkey"] == client.tee_pubkey
    assert claims["exp"] - claims["iat"] == 300


def test_the_session_cookie_is_kept_from_scripts_and_plaintext(served):
    _, _, url = served
    with plain_http(url) as http:
        answer = http.post(
            "/kbs/v0/auth", json={"version": "0.4.0", "tee": "tdx", "extra-params": ""}
        )
    cookie = answer.headers["set-cookie"].lower()
    for attribute in ("httponly", "samesite=strict", "secure", "max-age=300", "path=/kbs/v0"):
        assert attribute in cookie


def test_a_nonce_is_good_for_one_attestation(served):
    world, _, url = served
    client = world.client(url)
    evidence = bound(client, client.challenge(), world.guest())
    client.attest(evidence)
    with pytest.raises(NotAuthentic, match="session-spent"):
        client.attest(evidence)


def test_a_failed_attestation_spends_the_nonce_too(served):
    world, _, url = served
    client = world.client(url)
    nonce = client.challenge()
    with pytest.raises(NotAffirmed, match=r"tdx\.mrtd"):
        client.attest(bound(client, nonce, world.guest(measurements={"mrtd": b"x" * 48})))
    with pytest.raises(NotAuthentic, match="session-spent"):
        client.attest(bound(client, nonce, world.guest()))


def test_the_nonce_of_another_session_is_refused(served):
    world, _, url = served
    client, other = world.client(url), world.client(url)
    client.challenge()
    with pytest.raises(NotAuthentic, match="nonce-mismatch"):
        client.attest(bound(client, other.challenge(), world.guest()))


def test_a_session_cannot_attest_again_after_a_release(served):
    world, _, url = served
    client = attested(world, url)
    client.resource(MODEL_KEY)
    with pytest.raises(NotAuthentic, match="session-spent"):
        client.attest(bound(client, "A" * 43 + "=", world.guest()))


def test_a_swapped_key_is_refused(served):
    world, _, url = served
    theirs = tee_pubkey(ec.generate_private_key(ec.SECP256R1()).public_key())

    def swap(message):
        message["runtime-data"]["tee-pubkey"] = theirs
        return message

    response = raw_attest(url, world.guest(), change=swap)
    assert code_of(response) == (401, "binding-mismatch")


def test_the_evidence_of_another_boot_is_refused(served):
    world, _, url = served
    client, other = world.client(url), world.client(url)
    evidence = bound(client, client.challenge(), world.guest(), key=other.tee_pubkey)
    stolen = replace(evidence, binding=KbsBinding(evidence.binding.nonce, client.tee_pubkey, ""))
    with pytest.raises(NotAuthentic, match="binding-mismatch"):
        client.attest(stolen)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"measurements": {"mrtd": b"x" * 48}}, r"tdx\.mrtd"),
        ({"config": Digest.sha256(b"another")}, r"runtime\.config"),
        ({"manifest": Digest.sha256(b"another")}, r"runtime\.model"),
        ({"mr_config_id": b"y" * 48}, r"tdx\.mr-config-id"),
    ],
)
def test_a_guest_the_policy_does_not_know_is_refused(served, options, code):
    world, broker, url = served
    with pytest.raises(NotAffirmed, match=code):
        attested(world, url, world.guest(**options))
    assert [e["event"] for e in entries(broker)][-1] == "refused"


def test_registers_that_the_log_does_not_explain_are_refused(served):
    world, _, url = served
    with pytest.raises(NotAuthentic, match="eventlog-mismatch"):
        attested(world, url, world.guest(measurements={"rtmr2": b"x" * 48}))


def test_a_debug_guest_is_refused(served):
    world, _, url = served
    with pytest.raises(NotAffirmed, match="debug"):
        attested(world, url, world.guest(debug=True))


def test_expired_collateral_is_refused(served):
    world, _, url = served
    world.endorse(now=world.now - dt.timedelta(days=200))
    with pytest.raises(Undecidable, match="code crl-expired"):
        attested(world, url)


def test_missing_collateral_is_never_a_pass(served):
    world, _, url = served
    world.path("collateral.json").unlink()
    with pytest.raises(Undecidable, match="endorsements-missing"):
        attested(world, url)


def test_a_stranger_s_root_is_refused(served):
    world, _, url = served
    stranger = MockIntel.generate(world.now)
    with pytest.raises(NotAuthentic):
        attested(world, url, measured_guest(stranger))


def test_an_unknown_resource_is_not_found(served):
    world, broker, url = served
    client = attested(world, url)
    with pytest.raises(NotAffirmed, match="status 404, code resource-unknown"):
        client.resource("tacit/demo/other")
    assert ("resource", "resource-unknown") in [row[1:3] for row in broker.store.tallies()]


def test_without_a_session_nothing_is_told_about_resources(served):
    _, _, url = served
    with plain_http(url) as http:
        for path in (MODEL_KEY, "tacit/demo/other"):
            assert code_of(http.get(f"/kbs/v0/resource/{path}")) == (401, "session-unknown")


def test_an_unattested_session_gets_nothing(served):
    world, _, url = served
    client = world.client(url)
    client.challenge()
    with pytest.raises(NotAuthentic, match="session-unattested"):
        client.resource(MODEL_KEY)


def test_a_session_ends(served):
    world, _, url = served
    client = attested(world, url)
    world.now += dt.timedelta(seconds=301)
    with pytest.raises(NotAuthentic, match="session-expired"):
        client.resource(MODEL_KEY)


def test_a_key_wrapped_for_another_manifest_is_not_released(world):
    other = Digest.sha256(b"the next manifest")
    world.wrap_model(manifest=other)
    with world.serving() as (broker, url):
        client = attested(world, url)
        with pytest.raises(NotAffirmed, match="manifest-not-measured"):
            client.resource(MODEL_KEY)
        last = entries(broker)[-1]
        assert (last["event"], last["code"]) == ("refused", "manifest-not-measured")


def test_a_resource_has_its_own_policy(world):
    world.write_policy("resource.yaml", config=Digest.sha256(b"another"))
    with world.serving() as (_, url):
        client = attested(world, url)
        with pytest.raises(NotAffirmed, match=r"runtime\.config"):
            client.resource(MODEL_KEY)


def test_what_intel_takes_back_ends_releases_at_the_next_request(served):
    world, _, url = served
    client = attested(world, url)
    client.resource(MODEL_KEY)
    world.endorse(state=out_of_date())
    with pytest.raises(NotAffirmed, match=r"tdx\.tcb"):
        client.resource(MODEL_KEY)


def test_a_tcb_status_the_policy_does_not_accept_is_refused(served):
    world, _, url = served
    world.endorse(state=out_of_date())
    with pytest.raises(NotAffirmed, match=r"tdx\.tcb"):
        attested(world, url)


def out_of_date() -> Statements:
    info = TcbInfo()
    levels = tuple(replace(level, status="OutOfDate") for level in info.levels)
    return Statements(tcb_info=replace(info, levels=levels))


def test_init_data_is_compared_with_mrconfigid(served):
    world, _, url = served
    document = {"format": "toml", "body": 'algorithm = "sha384"\nversion = "0.1.0"\n'}

    def with_init_data(message):
        return message | {"init-data": document}

    response = raw_attest(url, world.guest(), change=with_init_data)
    assert code_of(response) == (401, "init-data-mismatch")


def test_the_broker_is_known_by_its_key(served, tmp_path):
    world, _, url = served
    write_tls(tmp_path / "other.crt", tmp_path / "other.key")
    client = world.client(url, certificate=(tmp_path / "other.crt").read_text())
    with pytest.raises(NotAuthentic) as refused:
        client.challenge()
    assert refused.value.code == "broker-tls-key"


def test_an_absent_broker_is_undecidable(world):
    with world.client("https://127.0.0.1:1") as client, pytest.raises(Undecidable) as refused:
        client.challenge()
    assert refused.value.code == "broker-unreachable"


def test_nothing_is_released_that_cannot_be_recorded(served):
    world, broker, url = served
    client = attested(world, url)
    before = len(entries(broker))
    with sqlite3.connect(world.path("broker.db")) as db:
        db.execute(
            "CREATE TRIGGER full BEFORE INSERT ON releases BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    with pytest.raises(Undecidable, match="status 503, code broker-store"):
        client.resource(MODEL_KEY)
    with pytest.raises(Undecidable, match="status 503, code broker-store"):
        attested(world, url)
    assert len(entries(broker)) == before
    with sqlite3.connect(world.path("broker.db")) as db:
        db.execute("DROP TRIGGER full")
    db.close()
    assert client.resource(SECRET).reveal() == PEPPER


def test_a_locked_store_releases_nothing_and_recovers(served):
    world, _, url = served
    client = attested(world, url)
    db = sqlite3.connect(world.path("broker.db"), isolation_level=None)
    db.execute("BEGIN IMMEDIATE")  # a stuck process that holds the write lock
    with pytest.raises(Undecidable, match="status 503, code broker-store"):
        client.resource(MODEL_KEY)
    db.execute("ROLLBACK")
    db.close()
    assert client.resource(SECRET).reveal() == PEPPER
