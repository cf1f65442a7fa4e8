"""The native release: one nonce, one resource, sealed to the attested key, with a statement."""

import datetime as dt
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import KeySet

from attestation.binding import KbsBinding
from attestation.broker.native import Recipient, ReleaseAnswer, Statement, XWingKey
from attestation.broker.protocol import Attestation, tee_pubkey
from attestation.broker.releaselog import verify_chain
from attestation.codec import b64, b64url, parse_document, parse_json, unb64, unb64url
from attestation.errors import Malformed, NotAffirmed, NotAuthentic, Refusal
from attestation.types import Digest
from tests.broker_world import DEK, MANIFEST, MODEL_KEY, PEPPER, SECRET, World, plain_http


@pytest.fixture(name="world")
def _world(tmp_path):
    return World.create(tmp_path)


@pytest.fixture(name="broker")
def _broker(world):
    broker = world.broker()
    yield broker
    broker.store.close()


def requested(world, broker, *, resource=MODEL_KEY, to=None, **options):
    """A request with evidence for a fresh nonce, and the key pair it is for."""
    to = to or Recipient.generate()
    nonce = json.loads(broker.native_challenge(b'{"version":1}'))["nonce"]
    binding = KbsBinding(nonce, to.public.model_dump(), "")
    return to, to.request(resource, world.guest(**options).evidence(binding), nonce=nonce)


def released(broker, request):
    body = request.model_dump_json().encode()
    return parse_document(ReleaseAnswer, broker.native_release(body))


def code(broker, request, *, change=lambda document: document):
    with pytest.raises(Refusal) as refused:
        broker.native_release(json.dumps(change(request.model_dump(mode="json"))).encode())
    return refused.value.code


def stated(broker, answer):
    keys = KeySet.import_key_set(parse_json(broker.token_key.jwks))
    claims = jwt.decode(answer.statement, keys, algorithms=["ES256"]).claims
    return Statement.model_validate(claims)


def test_the_key_is_sealed_to_the_attested_key_and_the_statement_tells_all(world, broker):
    to, request = requested(world, broker)
    answer = released(broker, request)
    sealed = unb64(answer.sealed, what="sealed")
    payload = parse_json(to.open(sealed, request).reveal())
    assert payload == {"dek": b64(DEK), "manifest": str(MANIFEST), "minimum_version": 3}
    said = stated(broker, answer)
    links = list(broker.store.releases())
    entry = parse_json(links[said.log_index].entry)
    assert verify_chain(links, known=Digest.parse(said.log_head)).size == said.log_index + 1
    for name in ("resource", "key", "tenant", "policy", "rules", "evidence", "guest", "recipient"):
        assert getattr(said, name) == entry[name]
    assert said.sealed == str(Digest.sha256(sealed))
    assert (said.manifest, said.minimum_version, said.simulated) == (str(MANIFEST), 3, True)


def test_it_is_spoken_over_tls_without_a_cookie(world):
    with world.serving() as (broker, url), plain_http(url) as http:
        challenge = http.post("/v1/keys/challenge", json={"version": 1})
        nonce = challenge.json()["nonce"]
        to = Recipient.generate()
        evidence = world.guest().evidence(KbsBinding(nonce, to.public.model_dump(), ""))
        request = to.request(SECRET, evidence, nonce=nonce)
        response = http.post("/v1/keys/release", content=request.model_dump_json())
        answer = parse_document(ReleaseAnswer, response.content)
        assert to.open(unb64(answer.sealed, what="sealed"), request).reveal() == PEPPER
        assert stated(broker, answer).resource == SECRET
        assert "set-cookie" not in challenge.headers
        assert "set-cookie" not in response.headers
        again = http.post("/v1/keys/release", content=request.model_dump_json())
        assert (again.status_code, again.json()["detail"]) == (401, "session-spent")


def test_a_secret_is_released_the_same_way(world, broker):
    to, request = requested(world, broker, resource=SECRET)
    answer = released(broker, request)
    assert to.open(unb64(answer.sealed, what="sealed"), request).reveal() == PEPPER
    assert stated(broker, answer).manifest is None


def test_an_answer_opens_for_its_request_and_key_alone(world, broker):
    to, request = requested(world, broker)
    sealed = unb64(released(broker, request).sealed, what="sealed")
    _, other = requested(world, broker, to=to)
    with pytest.raises(NotAuthentic):
        to.open(sealed, other)
    with pytest.raises(NotAuthentic):
        Recipient.generate().open(sealed, request)
    with pytest.raises(NotAuthentic):
        to.open(sealed[:-1], request)


def test_a_request_is_good_once(world, broker):
    _, request = requested(world, broker)
    released(broker, request)
    assert code(broker, request) == "session-spent"


def test_a_nonce_ends_and_is_the_broker_s(world, broker):
    _, request = requested(world, broker)
    world.now += dt.timedelta(seconds=301)
    assert code(broker, request) == "session-expired"
    strange = b64(bytes(32))
    changed = code(broker, request, change=lambda document: document | {"nonce": strange})
    assert changed == "session-unknown"


def test_another_recipient_than_the_attested_one_is_refused(world, broker):
    _, request = requested(world, broker)
    thief = Recipient.generate().public.model_dump()
    changed = code(broker, request, change=lambda document: document | {"recipient": thief})
    assert changed == "binding-mismatch"


def test_evidence_spends_its_nonce_whatever_becomes_of_it(world, broker):
    _, request = requested(world, broker)
    thief = Recipient.generate().public.model_dump()
    code(broker, request, change=lambda document: document | {"recipient": thief})
    assert code(broker, request) == "session-spent"


def test_a_guest_the_policy_does_not_know_is_refused_and_logged(world, broker):
    _, request = requested(world, broker, config=Digest.sha256(b"another"))
    assert code(broker, request) == "runtime.config"
    last = parse_json(list(broker.store.releases())[-1].entry)
    assert (last["event"], last["code"]) == ("refused", "runtime.config")


def test_rules_hold_here_too(world):
    world.write_rules(releases={"most": 1, "hours": 1})
    broker = world.broker()
    released(broker, requested(world, broker)[1])
    assert code(broker, requested(world, broker)[1]) == "release-limit"
    broker.store.close()


def test_an_unknown_resource_is_not_released(world, broker):
    _, request = requested(world, broker, resource="tacit/demo/other")
    with pytest.raises(NotAffirmed) as refused:
        released(broker, request)
    assert refused.value.code == "resource-unknown"


def test_evidence_of_one_protocol_is_none_in_the_other(world, broker):
    to = Recipient.generate()
    session, challenge = broker.challenge(b'{"version":"0.4.0","tee":"tdx","extra-params":""}')
    nonce = json.loads(challenge)["nonce"]
    evidence = world.guest().evidence(KbsBinding(nonce, to.public.model_dump(), ""))
    with pytest.raises(Malformed):
        broker.attest(session.id, Attestation.build(evidence).to_bytes())
    key = tee_pubkey(ec.generate_private_key(ec.SECP256R1()).public_key())
    _, request = requested(world, broker)
    changed = code(broker, request, change=lambda document: document | {"recipient": key})
    assert changed == "field-invalid"


@pytest.mark.parametrize("size", [0, 32, 1215, 1217])
def test_a_key_of_another_size_is_no_key(size):
    with pytest.raises(Malformed):
        XWingKey(kty="AKP", alg="X-Wing", pub=b64url(bytes(max(size, 1)))).public_key()


def test_the_seal_is_x_wing_with_its_sizes(world, broker):
    to, request = requested(world, broker, resource=SECRET)
    sealed = unb64(released(broker, request).sealed, what="sealed")
    assert len(sealed) == 1120 + len(PEPPER) + 16
    assert len(unb64url(to.public.pub, what="pub")) == 1216
