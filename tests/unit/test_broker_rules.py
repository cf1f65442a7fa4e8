"""The rules of a key decide whose, when, how often and with whose consent it is released."""

import datetime as dt
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.binding import KbsBinding
from attestation.broker.protocol import Attestation, tee_pubkey
from attestation.broker.releaselog import verify_chain
from attestation.codec import parse_json
from attestation.errors import ConfigError, NotAffirmed, Refusal, Undecidable
from tests.broker_world import MODEL_KEY, World
from tests.postgres_server import new_database

REQUEST = b'{"version":"0.4.0","tee":"tdx","extra-params":""}'


@pytest.fixture(name="world")
def _world(tmp_path):
    return World.create(tmp_path)


@pytest.fixture(name="opened")
def _opened(world):
    brokers = []

    def opened(**rules):
        world.write_rules(**rules)
        brokers.append(world.broker())
        return brokers[-1]

    yield opened
    for broker in brokers:
        broker.store.close()


def attested(world, broker, **options):
    session, challenge = broker.challenge(REQUEST)
    key = tee_pubkey(ec.generate_private_key(ec.SECP256R1()).public_key())
    guest = world.guest(**options)
    evidence = guest.evidence(KbsBinding(json.loads(challenge)["nonce"], key, ""))
    broker.attest(session.id, Attestation.build(evidence).to_bytes())
    return session.id


def ask(world, broker, **options):
    return broker.resource(attested(world, broker, **options), MODEL_KEY)


def refusal(world, broker, kind=NotAffirmed):
    with pytest.raises(kind) as refused:
        ask(world, broker)
    return refused.value.code


def entries(broker):
    return [parse_json(item.entry) for item in broker.store.releases()]


def test_a_key_has_a_time_window(world, opened):
    broker = opened(not_before="2026-11-25T13:00:00Z", not_after="2026-11-25T15:00:00Z")
    assert refusal(world, broker) == "key-not-yet"
    world.now += dt.timedelta(hours=1)
    assert ask(world, broker)
    world.now += dt.timedelta(hours=2)
    assert refusal(world, broker) == "key-ended"
    assert [(e["event"], e["code"]) for e in entries(broker)][-1] == ("refused", "key-ended")


def test_a_required_submod_must_be_attested(world, opened):
    assert refusal(world, opened(submods=["cpu0", "gpu0"])) == "submod-missing"


def test_a_guest_is_released_a_key_a_bounded_number_of_times(world, opened):
    broker = opened(releases={"most": 2, "hours": 24})
    session = attested(world, broker)
    assert broker.resource(session, MODEL_KEY)
    assert ask(world, broker)  # a restart of the same guest is the same guest
    for _ in range(2):
        assert refusal(world, broker) == "release-limit"
    world.now += dt.timedelta(hours=24, seconds=1)
    world.endorse()
    assert ask(world, broker)


def test_every_release_names_tenant_rules_guest_key_and_recipient(world, opened):
    broker = opened(tenant="acme")
    ask(world, broker)
    last = entries(broker)[-1]
    resource = broker.resources[MODEL_KEY]
    assert (last["event"], last["tenant"]) == ("released", "acme")
    assert last["rules"] == str(resource.rules.digest)
    assert last["policy"] == str(resource.policy.digest)
    for name in ("guest", "key", "recipient", "evidence", "session"):
        assert last[name].startswith("sha256:")


def approve(broker, request, person, *, now, hours=1):
    entry = broker._entry("admin", {"actor": person, "act": "approvals.approve"})
    until = now + dt.timedelta(hours=hours)
    return broker.ledger.approve(request, person=person, until=until, entry=entry)


def test_two_people_must_approve_a_guest(world, opened):
    broker = opened(approvals=2)
    for _ in range(2):  # a guest asks again until it is decided; it is one request
        assert refusal(world, broker, Undecidable) == "approval-pending"
    (pending,) = broker.ledger.requests(now=world.now)
    assert [e["event"] for e in entries(broker)].count("asked") == 1
    approve(broker, pending.id, "ada", now=world.now)
    approve(broker, pending.id, "ada", now=world.now)  # the same person is one person
    assert refusal(world, broker, Undecidable) == "approval-pending"
    approve(broker, pending.id, "bob", now=world.now)
    assert ask(world, broker)
    world.now += dt.timedelta(hours=1, seconds=1)
    assert refusal(world, broker, Undecidable) == "approval-pending"


def test_an_approval_is_for_one_guest_and_one_key(world, opened):
    broker = opened(approvals=1)
    assert refusal(world, broker, Undecidable) == "approval-pending"
    (pending,) = broker.ledger.requests(now=world.now)
    approve(broker, pending.id, "ada", now=world.now)
    assert ask(world, broker)
    world.wrap_model(minimum_version=4)
    again = world.broker()
    assert refusal(world, again, Undecidable) == "approval-pending"
    again.store.close()


def test_nobody_approves_what_no_guest_asked_for(world, opened):
    with pytest.raises(NotAffirmed) as refused:
        approve(opened(approvals=2), "11" * 32, "ada", now=world.now)
    assert refused.value.code == "request-unknown"


def revoke(broker, *, at):
    entry = broker._entry("admin", {"actor": "ada", "act": "keys.revoke"})
    wrapped = broker.find(MODEL_KEY).wrapped
    broker.ledger.revoke(wrapped, person="ada", at=at, entry=entry)


def test_a_revocation_holds_from_the_next_request_on_and_survives_a_rewrap(world, opened):
    broker = opened()
    session = attested(world, broker)
    assert broker.resource(session, MODEL_KEY)
    revoke(broker, at=world.now)
    with pytest.raises(NotAffirmed) as refused:
        broker.resource(session, MODEL_KEY)  # a session that was good a moment ago
    assert refused.value.code == "key-revoked"
    world.wrap_model()  # the same key, wrapped anew
    again = world.broker()
    assert refusal(world, again) == "key-revoked"
    world.wrap_model(minimum_version=4)
    again.store.close()
    newer = world.broker()
    assert ask(world, newer)
    newer.store.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_brokers_do_not_both_release_the_last_one(world, kind):
    if kind == "postgresql":
        world.write_config(store=new_database())
    world.write_rules(releases={"most": 3, "hours": 1})
    brokers = [world.broker() for _ in range(2)]
    sessions = [attested(world, brokers[0]) for _ in range(8)]

    def once(number):
        try:
            brokers[number % 2].resource(sessions[number], MODEL_KEY)
        except Refusal as refused:
            return refused.code
        return "released"

    with ThreadPoolExecutor(8) as pool:
        answers = sorted(pool.map(once, range(8)))
    assert answers == ["release-limit"] * 5 + ["released"] * 3
    verify_chain(brokers[0].store.releases())
    assert [e["event"] for e in entries(brokers[1])].count("released") == 3
    for broker in brokers:
        broker.store.close()


@pytest.mark.parametrize(
    "rules",
    [
        {"submods": ["gpu0"]},
        {"submods": []},
        {"submods": ["cpu0", "cpu0"]},
        {"not_before": "2026-12-01T00:00:00Z", "not_after": "2026-11-01T00:00:00Z"},
        {"not_after": "2026-11-01"},
        {"releases": {"most": 0, "hours": 1}},
        {"approvals": -1},
        {"tenant": ""},
    ],
)
def test_rules_that_release_nothing_or_mean_nothing_are_refused(world, rules):
    world.write_rules(**rules)
    with pytest.raises(ConfigError) as refused:
        world.settings()
    assert refused.value.code == "config-invalid"


def test_production_spells_its_rules_out(world):
    import yaml

    world.write_config(profile="production", kek="openbao:https://h/transit/k")
    document = yaml.safe_load(world.path("broker.yaml").read_text())
    for resource in document["resources"]:
        del resource["rules"]
    world.path("broker.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match="rules for every resource"):
        world.settings()
