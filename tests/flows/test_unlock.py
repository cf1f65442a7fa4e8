"""Boot's request for its keys: natively from our broker, and from a Trustee by cookie or bearer."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import json
import threading
import time

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from attestation.binding import KbsBinding
from attestation.broker.client import NativeClient
from attestation.broker.kek import open_kek
from attestation.broker.native import Recipient, ReleaseAnswer, seal_to
from attestation.broker.statement import open_release, statement_key
from attestation.codec import b64, b64url, parse_document, parse_json
from attestation.confidential import Confidential
from attestation.ear import TokenKey
from attestation.errors import (
    ConfigError,
    Malformed,
    NotAffirmed,
    NotAuthentic,
    Refusal,
    Undecidable,
)
from attestation.simulator.guest import SoftwareGuest
from attestation.simulator.tsm import SimulatedKernel
from attestation.tdx.collect import TdxGuest
from attestation.tdx.eventlog import RuntimeEvent
from attestation.types import Digest
from scripts.chain.installation import configure
from server.attester import Attester, WithoutGpus
from server.settings import Settings
from server.unlock import unlock
from tests.broker_world import (
    CONFIG,
    DEK,
    DOMAIN,
    MANIFEST,
    MODEL_KEY,
    PEPPER,
    SECRET,
    World,
    write_tls,
)
from tests.chain_kit import EXAMPLE
from tests.openbao_server import OpenBao
from tests.trustee_server import ERRORS, Trustee

PAYLOAD = {"dek": b64(DEK), "manifest": str(MANIFEST), "minimum_version": 3}
NEVER = threading.Event()


def public_pem(private):
    return private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.fixture(name="world")
def _world(tmp_path):
    world = World.create(tmp_path)
    private = load_pem_private_key(world.path("token.pem").read_bytes(), None)
    world.path("token.pub").write_bytes(public_pem(private))
    world.path("signer.pub").write_bytes(b"signer")
    return world


@pytest.fixture(name="guest")
def _guest(world):
    kernel = SimulatedKernel(world.path("tdx"), lambda: SoftwareGuest(world.intel))
    kernel.boot()
    stop = threading.Event()
    thread = threading.Thread(target=kernel.serve, args=(stop,))
    thread.start()
    guest = TdxGuest.insecure_simulated(world.path("tdx"))
    guest.extend(RuntimeEvent(DOMAIN, "config", str(CONFIG)))
    guest.extend(RuntimeEvent(DOMAIN, "model", f"qwen3={MANIFEST}"))
    yield Attester(guest, WithoutGpus())
    stop.set()
    thread.join()


@pytest.fixture(name="trustee")
def _trustee():
    return Trustee({MODEL_KEY: json.dumps(PAYLOAD).encode(), SECRET: PEPPER})


def settings(world, url, **broker):
    """The settings of a guest with this broker, read from a file as `tacit serve` reads them."""
    path = configure(EXAMPLE, world.path("serve.yaml"), state=world.directory, changes={})
    document = yaml.safe_load(path.read_text())
    common = {"url": url, "certificate": "tls.crt", "api_key_pepper": SECRET, "retry_seconds": 0}
    document["gpu"] = {"mode": "none"}
    document["broker"] = common | broker
    document["models"]["qwen3-demo"] |= {"key": MODEL_KEY, "signer": "signer.pub"}
    path.write_text(yaml.safe_dump(document))
    return Settings.load(path)


def native(world, url):
    return settings(world, url, protocol="native", statement_key="token.pub")


def kbs(world, url, session):
    return settings(world, url, protocol="kbs", session=session)


def assert_unlocked(found):
    assert found.model_keys["qwen3-demo"].reveal().model_dump() == PAYLOAD
    assert found.api_key_pepper.reveal() == PEPPER


# -- natively


def test_a_boot_keeps_the_digest_of_each_statement(world, guest):
    with world.serving() as (broker, url):
        found = unlock(native(world, url), guest, abandoned=NEVER)
        assert_unlocked(found)
        assert set(found.statements) == {MODEL_KEY, SECRET}
        last = [parse_json(item.entry) for item in broker.store.releases()][-2:]
        assert [(e["event"], e["resource"]) for e in last] == [
            ("released", MODEL_KEY),
            ("released", SECRET),
        ]


@pytest.fixture(name="bao", scope="module")
def _bao(tmp_path_factory):
    server = OpenBao.start(tmp_path_factory.mktemp("bao"))
    yield server
    server.stop()


@pytest.fixture(name="kept")
def _kept(world, bao):
    """Keep the world's KEK in OpenBao, which is sealed now."""
    with contextlib.closing(open_kek(bao.uri())) as world.kek:
        world.wrap_model()
        world.wrap_secret()
    world.write_config(kek=bao.uri())
    bao.seal()
    yield
    bao.unseal()


def native_again(world, url, seconds):
    return settings(world, url, protocol="native", statement_key="token.pub", retry_seconds=seconds)


@pytest.mark.usefixtures("kept")
def test_a_boot_asks_again_with_growing_pauses_until_openbao_is_unsealed(world, guest, bao, caplog):
    def refusals():
        return [record for record in caplog.records if record.message == "broker undecided"]

    def unseal():
        while len(refusals()) < 2:
            time.sleep(0.05)
        bao.unseal()

    with world.serving() as (_, url):
        later = threading.Thread(target=unseal, daemon=True)
        later.start()
        found = unlock(native_again(world, url, 120), guest, abandoned=NEVER)
        later.join(10)
    assert_unlocked(found)
    assert {record.code for record in refusals()} == {"broker-undecided"}
    times = [record.created for record in refusals()]
    assert all(after - before > 0.4 for before, after in itertools.pairwise(times))


@pytest.mark.usefixtures("kept")
def test_a_boot_that_is_abandoned_or_out_of_time_says_why_it_has_no_key(world, guest):
    abandoned = threading.Event()
    with world.serving() as (_, url):
        with pytest.raises(Undecidable, match="code kek-sealed"):
            unlock(native_again(world, url, 0), guest, abandoned=NEVER)
        threading.Timer(0.5, abandoned.set).start()
        begun = time.monotonic()
        with pytest.raises(Undecidable, match="code kek-sealed"):
            unlock(native_again(world, url, 600), guest, abandoned=abandoned)
        assert time.monotonic() - begun < 20


def test_our_broker_serves_the_same_guest_over_kbs(world, guest):
    with world.serving() as (_, url):
        found = unlock(kbs(world, url, "cookie"), guest, abandoned=NEVER)
        assert_unlocked(found)
        assert found.statements == {}


def test_our_broker_takes_no_bearer_token(world, guest):
    with world.serving() as (_, url), pytest.raises(NotAuthentic) as refused:
        unlock(kbs(world, url, "bearer"), guest, abandoned=NEVER)
    assert refused.value.code == "broker-rejected"
    assert "session-unknown" in refused.value.why


def test_a_statement_by_another_key_ends_the_boot(world, guest):
    world.path("token.pub").write_bytes(public_pem(ec.generate_private_key(ec.SECP256R1())))
    with world.serving() as (_, url), pytest.raises(NotAuthentic) as refused:
        unlock(native(world, url), guest, abandoned=NEVER)
    assert refused.value.code == "statement-signature"


@pytest.mark.parametrize(
    "pem", [b"", b"nothing", public_pem(ec.generate_private_key(ec.SECP384R1()))]
)
def test_a_file_without_a_key_is_a_configuration_error(pem):
    with pytest.raises(ConfigError) as refused:
        statement_key(pem)
    assert refused.value.code == "statement-key"


class Exchange:
    """One request and its genuine answer, and what somebody in between may make of it."""

    def __init__(self, world, broker, *, resource=MODEL_KEY) -> None:
        self.broker, self.to = broker, Recipient.generate()
        nonce = json.loads(broker.native_challenge(b'{"version":1}'))["nonce"]
        binding = KbsBinding(nonce, self.to.public.model_dump(), "")
        evidence = world.guest().evidence(binding)
        self.request = self.to.request(resource, evidence, nonce=nonce)
        body = broker.native_release(self.request.model_dump_json().encode())
        self.answer = parse_document(ReleaseAnswer, body)

    def open(self, answer=None, *, key=None):
        return open_release(
            answer or self.answer,
            self.request,
            recipient=self.to,
            key=key or self.broker.token_key.private.public_key(),
        )

    def claims(self):
        return parse_json(base64.urlsafe_b64decode(self.answer.statement.split(".")[1] + "=="))

    def stating(self, **changes):
        """The answer with another statement, signed by the broker itself."""
        return self.answer.model_copy(
            update={"statement": self.broker.token_key.sign(self.claims() | changes)}
        )


@pytest.fixture(name="broker")
def _broker(world):
    broker = world.broker()
    yield broker
    broker.close()


def code(act):
    with pytest.raises(Refusal) as refused:
        act()
    return refused.value.code


def test_the_answer_to_another_request_or_boot_is_refused(world, broker):
    first, second = Exchange(world, broker), Exchange(world, broker)
    assert code(lambda: second.open(first.answer)) == "statement-mismatch"
    sealed_there = second.answer.model_copy(update={"sealed": first.answer.sealed})
    assert code(lambda: second.open(sealed_there)) == "statement-mismatch"
    assert second.open().model_key().reveal().model_dump() == PAYLOAD


def test_an_answer_about_another_resource_is_refused(world, broker):
    found = Exchange(world, broker, resource=SECRET)
    asked = found.request.model_copy(update={"resource": MODEL_KEY})
    found.request = asked
    assert code(found.open) == "statement-mismatch"


def test_a_key_that_somebody_else_sealed_is_refused(world, broker):
    found = Exchange(world, broker)
    theirs = seal_to(
        found.request, Confidential(json.dumps(PAYLOAD | {"dek": b64(bytes(32))}).encode())
    )
    assert code(lambda: found.open(found.answer.model_copy(update={"sealed": b64(theirs)}))) == (
        "statement-mismatch"
    )
    thief = TokenKey(ec.generate_private_key(ec.SECP256R1()))
    forged = thief.sign(found.claims() | {"sealed": str(Digest.sha256(theirs))})
    answer = ReleaseAnswer(version=1, sealed=b64(theirs), statement=forged)
    assert code(lambda: found.open(answer)) == "statement-signature"


@pytest.mark.parametrize(
    "change", [{"minimum_version": 1}, {"manifest": str(Digest.sha256(b"older"))}]
)
def test_a_statement_that_lowers_what_was_sealed_is_refused(world, broker, change):
    found = Exchange(world, broker)
    opened = found.open(found.stating(**change))
    assert code(opened.model_key) == "statement-mismatch"


def test_an_attestation_token_is_no_statement(world, broker):
    found = Exchange(world, broker)
    token = broker.token_key.sign({"iss": "tacit-broker", "submods": {}})
    answer = found.answer.model_copy(update={"statement": token})
    assert code(lambda: found.open(answer)) == "broker-protocol"


@pytest.mark.parametrize(
    "header",
    [{"alg": "none"}, {"alg": "HS256"}, {"alg": "ES256", "crit": ["x"]}, ["ES256"], "ES256"],
)
def test_a_statement_under_another_algorithm_is_refused(world, broker, header):
    found = Exchange(world, broker)
    _, claims, signature = found.answer.statement.split(".")
    for end in (signature, ""):
        token = ".".join((b64url(json.dumps(header).encode()), claims, end))
        answer = found.answer.model_copy(update={"statement": token})
        assert code(lambda answer=answer: found.open(answer)) == "statement-signature"


def test_no_changed_character_of_a_statement_is_believed(world, broker):
    found = Exchange(world, broker)
    whole = found.answer.statement
    for place in range(0, len(whole), 7):
        other = "A" if whole[place] != "A" else "B"
        changed = whole[:place] + other + whole[place + 1 :]
        answer = found.answer.model_copy(update={"statement": changed})
        assert code(lambda answer=answer: found.open(answer)) in (
            "statement-signature",
            "broker-protocol",
        )


# -- a Trustee


@pytest.mark.parametrize("session", ["cookie", "bearer"])
def test_a_trustee_hands_out_its_resources(world, guest, trustee, session):
    with trustee.serving(world.directory) as url:
        assert_unlocked(unlock(kbs(world, url, session), guest, abandoned=NEVER))
    asked = [headers for path, headers in trustee.seen if "/resource/" in path]
    assert len(asked) == 2
    for headers in asked:
        assert ("authorization" in headers, "cookie" in headers) == (
            session == "bearer",
            session == "cookie",
        )


def test_a_relying_kbs_that_knows_no_session_takes_the_token(world, guest, trustee):
    trustee.takes_cookies = False
    with trustee.serving(world.directory) as url:
        assert_unlocked(unlock(kbs(world, url, "bearer"), guest, abandoned=NEVER))
        with pytest.raises(NotAuthentic):
            unlock(kbs(world, url, "cookie"), guest, abandoned=NEVER)


def test_a_session_that_trustee_lost_is_begun_anew(world, guest, trustee):
    trustee.forget = 2
    with trustee.serving(world.directory) as url:
        assert_unlocked(unlock(kbs(world, url, "cookie"), guest, abandoned=NEVER))
    assert [path for path, _ in trustee.seen].count("/kbs/v0/attest") == 3


def test_a_token_that_ended_is_renewed_a_few_times_and_not_for_ever(world, guest, trustee):
    trustee.token_life_s = -1
    with trustee.serving(world.directory) as url, pytest.raises(NotAuthentic) as refused:
        unlock(kbs(world, url, "bearer"), guest, abandoned=NEVER)
    assert (refused.value.code, type(refused.value)) == ("broker-rejected", NotAuthentic)
    assert [path for path, _ in trustee.seen].count("/kbs/v0/attest") == 3


def test_what_trustee_s_policy_denies_is_final(world, guest, trustee):
    trustee.denied.add(SECRET)
    with trustee.serving(world.directory) as url, pytest.raises(NotAffirmed) as refused:
        unlock(kbs(world, url, "bearer"), guest, abandoned=NEVER)
    assert refused.value.code == "broker-refused"
    assert [path for path, _ in trustee.seen].count("/kbs/v0/attest") == 1


def test_trustee_is_known_by_the_measured_certificate(world, guest, trustee):
    deployment = kbs(world, "https://127.0.0.1:1", "cookie")
    write_tls(world.path("tls.crt"), world.path("tls.key"))
    with trustee.serving(world.directory) as url:
        broker = deployment.file.broker.model_copy(update={"url": url})
        file = deployment.file.model_copy(update={"broker": broker})
        with pytest.raises(NotAuthentic) as refused:
            unlock(dataclasses.replace(deployment, file=file), guest, abandoned=NEVER)
    assert (refused.value.code, trustee.seen) == ("broker-tls-key", [])


@pytest.mark.parametrize(
    "token", ["", "a.b", "a.b.c\r\nx: y", "a.b.c d", "ä.b.c", "a.b." + "c" * 70_000]
)
def test_a_token_that_is_no_token_never_becomes_a_header(world, guest, trustee, token):
    trustee.attest = lambda _body, _headers: ({"token": token}, None)
    with trustee.serving(world.directory) as url, pytest.raises(Malformed) as refused:
        unlock(kbs(world, url, "bearer"), guest, abandoned=NEVER)
    assert refused.value.code == "broker-protocol"
    assert len(trustee.seen) == 2


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"protected": "e30", "encrypted_key": "", "iv": "", "ciphertext": "", "tag": ""},
        {"type": ERRORS + "PolicyDeny", "detail": "with status 200"},
        [],
    ],
)
def test_an_answer_that_is_no_jwe_is_refused(world, guest, trustee, answer):
    trustee.resource = lambda _path, _headers: answer
    with trustee.serving(world.directory) as url, pytest.raises(Malformed) as refused:
        unlock(kbs(world, url, "cookie"), guest, abandoned=NEVER)
    assert refused.value.code == "broker-protocol"


def test_an_absent_broker_is_undecidable_natively_too(world):
    with contextlib.closing(
        NativeClient(
            "https://127.0.0.1:1",
            certificate_pem=world.path("tls.crt").read_text(),
            key=statement_key(world.path("token.pub").read_bytes()),
        )
    ) as client:
        assert code(lambda: client.release(MODEL_KEY, lambda *_: None)) == "broker-unreachable"
