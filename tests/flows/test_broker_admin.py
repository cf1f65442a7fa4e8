"""The admin listener: who may, what changes at once, and that every act is in the release log."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import subprocess
import sys
import threading
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import ECKey

from attestation.broker.app import BrokerServer
from attestation.broker.keyfile import WrappedKey, model_key_aad
from attestation.broker.releaselog import verify_chain
from attestation.codec import b64, parse_json
from attestation.confidential import Confidential
from attestation.errors import ConfigError, NotAffirmed, Undecidable
from attestation.tls import pinned_context
from tests.broker_world import MANIFEST, MODEL_KEY, World, bound, write_key, write_tls

ISSUER, AUDIENCE = "https://idp.example", "tacit-broker"


@pytest.fixture(name="world")
def _world(tmp_path):
    world = World.create(tmp_path)
    write_tls(tmp_path / "admin.crt", tmp_path / "admin.key")
    world.idp = ec.generate_private_key(ec.SECP256R1())
    jwk = ECKey.import_key(world.idp).as_dict(private=False, kid="one")
    world.path("jwks.json").write_text(json.dumps({"keys": [jwk]}))
    return world


def administrated(world, login, **rules):
    world.write_config(
        admin={
            "listen": {"host": "127.0.0.1", "port": 0},
            "tls": {"certificate": "admin.crt", "key": "admin.key"},
            "login": login,
        }
    )
    world.write_rules(**rules)


BY_TOKEN = {
    "kind": "jwt",
    "jwks": "jwks.json",
    "issuer": ISSUER,
    "audience": AUDIENCE,
    "roles_claim": "groups",
    "roles": {"ops": ["viewer", "operator"], "security": ["viewer", "approver"]},
}


@contextlib.contextmanager
def serving(world):
    """Yield (broker, url, admin url)."""
    broker = world.broker()
    listening = threading.Event()
    ports = []

    def ready(port):
        ports.append(port)
        listening.set()

    server = BrokerServer(broker, world.settings(), ready=ready)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert listening.wait(20)
        admin = f"https://127.0.0.1:{server.admin_port}"
        yield broker, f"https://127.0.0.1:{ports[0]}", admin
    finally:
        for client in world.clients:
            client.close()
        server.should_exit = True
        thread.join(20)
        broker.store.close()


def token(world, name="ada", groups=("ops",), key=None, **changes):
    now = int(world.now.timestamp())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": name,
        "groups": list(groups),
        "exp": now + 300,
    } | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    private = ECKey.import_key(key or world.idp)
    return jwt.encode({"alg": "ES256", "kid": "one"}, claims, private)


@contextlib.contextmanager
def admin(world, url, *, bearer=None, certificate=None):
    context = pinned_context(world.path("admin.crt").read_text())
    if certificate is not None:
        context.load_cert_chain(*certificate)
    headers = {} if bearer is None else {"authorization": f"Bearer {bearer}"}
    with httpx2.Client(base_url=url, verify=context, trust_env=False, headers=headers) as http:
        yield http


def code_of(response):
    return response.status_code, response.json()["detail"]


def acts(broker):
    entries = [parse_json(item.entry) for item in broker.store.releases()]
    return [(e["actor"], e["act"], e["code"]) for e in entries if e["event"] == "admin"]


def ask(world, url):
    client = world.client(url)
    client.attest(bound(client, client.challenge(), world.guest()))
    return client.model_key(MODEL_KEY).reveal()


def test_people_list_and_every_act_is_in_the_log(world):
    administrated(world, BY_TOKEN)
    with serving(world) as (broker, url, where), admin(world, where, bearer=token(world)) as http:
        ask(world, url)
        (key,) = http.get("/v1/admin/keys").json()["keys"]
        assert (key["resource"], key["manifest"]) == (MODEL_KEY, str(MANIFEST))
        assert key["rules"]["tenant"] == "acme"
        policies = http.get("/v1/admin/policies").json()["policies"]
        assert {policy["profile"] for policy in policies} == {"simulated"}
        assert http.get("/v1/admin/sessions").json()["sessions"] == {"attested": 1}
        listed = http.get("/v1/admin/releases?since=2").json()
        assert listed["entries"][0]["event"] == "released"
        assert verify_chain(broker.store.releases()).size == listed["size"] + 1
        assert acts(broker) == [
            ("ada", act, "ok")
            for act in ("keys.list", "policies.list", "sessions.list", "releases.list")
        ]
        assert http.get("/readyz").json() == {"status": "ready"}


def test_no_answer_holds_a_secret(world):
    administrated(world, BY_TOKEN)
    with serving(world) as (_, url, where), admin(world, where, bearer=token(world)) as http:
        ask(world, url)
        wrapped = json.loads(world.path("model.json").read_text())["wrapped"]
        for path in ("keys", "policies", "sessions", "releases", "approvals"):
            assert wrapped not in http.get(f"/v1/admin/{path}").text


def test_a_revocation_works_at_the_next_request(world):
    administrated(world, BY_TOKEN)
    with serving(world) as (broker, url, where), admin(world, where, bearer=token(world)) as http:
        client = world.client(url)
        client.attest(bound(client, client.challenge(), world.guest()))
        assert client.model_key(MODEL_KEY)
        (key,) = http.get("/v1/admin/keys").json()["keys"]
        other = {"resource": MODEL_KEY, "key": "sha256:" + "11" * 32}
        assert code_of(http.post("/v1/admin/keys/revoke", json=other)) == (400, "key-version")
        body = {"resource": MODEL_KEY, "key": key["key"]}
        assert http.post("/v1/admin/keys/revoke", json=body).json()["revoked"] is True
        with pytest.raises(NotAffirmed, match="code key-revoked"):
            client.model_key(MODEL_KEY)
        assert acts(broker)[1:] == [
            ("ada", "keys.revoke", "key-version"),
            ("ada", "keys.revoke", "ok"),
        ]


def newer(world, *, minimum_version=4, kek=None, created=None):
    kek = kek or world.kek
    aad = model_key_aad(MODEL_KEY, manifest=str(MANIFEST), minimum_version=minimum_version)
    return (
        WrappedKey(
            version=1,
            resource=MODEL_KEY,
            model="qwen3",
            manifest=str(MANIFEST),
            minimum_version=minimum_version,
            kek=kek.id,
            wrapped=b64(kek.wrap(Confidential(b"\x07" * 32), aad=aad)),
            created=created or world.now + dt.timedelta(hours=1),
        )
        .model_dump_json()
        .encode()
    )


def test_an_imported_key_is_served_at_once_and_after_a_restart(world):
    administrated(world, BY_TOKEN)
    with serving(world) as (_, url, where), admin(world, where, bearer=token(world)) as http:
        assert ask(world, url).minimum_version == 3
        answer = http.post("/v1/admin/keys", content=newer(world))
        assert answer.json()["minimum_version"] == 4
        key = ask(world, url)
        assert (key.minimum_version, key.dek) == (4, b64(b"\x07" * 32))
    with serving(world) as (_, url, _where):
        assert ask(world, url).minimum_version == 4


def test_an_import_changes_neither_names_nor_goes_back(world):
    from attestation.broker.kek import create_file_kek

    administrated(world, BY_TOKEN)
    other = create_file_kek(world.path("other"))
    with serving(world) as (_, _url, where), admin(world, where, bearer=token(world)) as http:
        document = json.loads(newer(world))
        for body, expected in (
            (newer(world, minimum_version=2), (400, "wrapped-key-rollback")),
            (newer(world, created=world.now), (400, "wrapped-key-older")),
            (newer(world, kek=other), (503, "kek-mismatch")),
            (b"{}", (400, "wrapped-key")),
            (
                json.dumps(document | {"resource": "tacit/demo/new"}).encode(),
                (404, "resource-unknown"),
            ),
            (json.dumps(document | {"minimum_version": 5}).encode(), (503, "kek-mismatch")),
        ):
            assert code_of(http.post("/v1/admin/keys", content=body)) == expected


def test_two_people_approve_over_the_api(world):
    administrated(world, BY_TOKEN, approvals=2)
    with serving(world) as (broker, url, where):
        with pytest.raises(Undecidable, match="status 503, code approval-pending"):
            ask(world, url)
        for name, groups, expected in (
            ("ada", ["ops"], (403, "admin-role")),
            ("bob", ["security"], ["bob"]),
            ("bob", ["security"], ["bob"]),
            ("eve", ["security"], ["bob", "eve"]),
        ):
            bearer = token(world, name, groups)
            with admin(world, where, bearer=bearer) as http:
                (pending,) = http.get("/v1/admin/approvals").json()["approvals"]
                assert pending["needed"] == 2
                body = {"request": pending["request"], "hours": 2}
                answer = http.post("/v1/admin/approvals", json=body)
                if isinstance(expected, tuple):
                    assert code_of(answer) == expected
                else:
                    assert answer.json()["approved_by"] == expected
        assert ask(world, url)
        assert ("ada", "approvals.approve", "admin-role") in acts(broker)


FORGERIES = {
    "none": lambda w: None,
    "rubbish": lambda w: "a.b.c",
    "another key": lambda w: token(w, key=ec.generate_private_key(ec.SECP256R1())),
    "another issuer": lambda w: token(w, iss="https://evil.example"),
    "another audience": lambda w: token(w, aud="other"),
    "ended": lambda w: token(w, exp=int(w.now.timestamp()) - 31),
    "endless": lambda w: token(w, exp=None),
    "not yet": lambda w: token(w, nbf=int(w.now.timestamp()) + 60),
    "nobody": lambda w: token(w, sub=None),
    "unsigned": lambda w: (
        "eyJhbGciOiJub25lIn0." + token(w).split(".")[1] + "."  # {"alg":"none"}
    ),
}


@pytest.fixture(name="token_world", scope="module")
def _token_world(tmp_path_factory):
    directory = tmp_path_factory.mktemp("admin")
    world = World.create(directory)
    write_tls(directory / "admin.crt", directory / "admin.key")
    world.idp = ec.generate_private_key(ec.SECP256R1())
    jwk = ECKey.import_key(world.idp).as_dict(private=False, kid="one")
    world.path("jwks.json").write_text(json.dumps({"keys": [jwk]}))
    administrated(world, BY_TOKEN)
    with serving(world) as (broker, _, where):
        yield world, broker, where


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_token_that_does_not_hold_is_refused_and_counted(token_world, forge):
    world, broker, where = token_world
    before = acts(broker)
    with admin(world, where, bearer=forge(world)) as http:
        assert code_of(http.get("/v1/admin/keys")) == (401, "admin-login")
    assert acts(broker) == before
    assert ("admin", "admin-login") in [row[1:3] for row in broker.store.tallies()]


def test_a_known_person_without_a_role_may_nothing(token_world):
    world, broker, where = token_world
    with admin(world, where, bearer=token(world, "mallory", ["guests"])) as http:
        assert code_of(http.get("/v1/admin/keys")) == (403, "admin-role")
    assert acts(broker)[-1] == ("mallory", "keys.list", "admin-role")


def test_guests_routes_are_not_on_the_admin_listener_nor_the_other_way_round(token_world):
    world, _, where = token_world
    with admin(world, where, bearer=token(world)) as http:
        assert code_of(http.post("/kbs/v0/auth", json={})) == (404, "route-unknown")


def authority(directory: Path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "people")])
    certificate = _signed(name, name, key.public_key(), key, ca=True)
    (directory / "people.pem").write_bytes(certificate)
    return name, key


def _signed(subject, issuer, public, signer, *, ca):
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2099, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def person(directory: Path, name: str, issuer):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    (directory / f"{name}.pem").write_bytes(
        _signed(subject, issuer[0], key.public_key(), issuer[1], ca=False)
    )
    write_key(directory / f"{name}.key", key)
    return directory / f"{name}.pem", directory / f"{name}.key"


def test_people_log_in_by_certificate_and_by_command_line(world, tmp_path):
    issuer = authority(tmp_path)
    ada, eve = person(tmp_path, "ada", issuer), person(tmp_path, "eve", issuer)
    people = {"ada": ["viewer", "operator"]}
    administrated(world, {"kind": "mtls", "ca": "people.pem", "people": people})
    with serving(world) as (broker, _, where):
        with admin(world, where, certificate=ada) as http:
            assert http.get("/v1/admin/keys").status_code == 200
        with admin(world, where, certificate=eve) as http:
            assert code_of(http.get("/v1/admin/keys")) == (401, "admin-login")
        with admin(world, where) as http, pytest.raises(httpx2.HTTPError):
            http.get("/v1/admin/keys")
        (tmp_path / "strange").mkdir()
        stranger = person(tmp_path / "strange", "ada", authority(tmp_path / "strange"))
        with admin(world, where, certificate=stranger) as http, pytest.raises(httpx2.HTTPError):
            http.get("/v1/admin/keys")
        command = [sys.executable, "-m", "attestation.cli", "broker-admin", "--url", where]
        command += ["--pin", str(world.path("admin.crt")), "--cert", str(ada[0])]
        command += ["--key", str(ada[1])]
        listed = subprocess.run(
            [*command, "keys", "list", "--json"], capture_output=True, check=True
        )
        (key,) = json.loads(listed.stdout)["keys"]
        run = [*command, "keys", "revoke", MODEL_KEY, key["key"]]
        assert b"revoked=true" in subprocess.run(run, capture_output=True, check=True).stdout
        run = [*command, "approvals", "approve", "11" * 32]
        refused = subprocess.run(run, capture_output=True, check=False)
        assert (refused.returncode, b"admin-role" in refused.stderr) == (5, True)
        assert acts(broker) == [
            ("ada", "keys.list", "ok"),
            ("ada", "keys.list", "ok"),
            ("ada", "keys.revoke", "ok"),
            ("ada", "approvals.approve", "admin-role"),
        ]


@pytest.mark.parametrize(
    "jwks",
    ["", "[]", '{"keys":[]}', '{"keys":[{"kty":"oct","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}]}'],
)
def test_keys_that_anybody_could_sign_with_are_refused(world, jwks):
    administrated(world, BY_TOKEN)
    world.path("jwks.json").write_text(jwks)
    broker = world.broker()
    with pytest.raises(ConfigError) as refused:
        BrokerServer(broker, world.settings(), ready=lambda _: None)
    broker.store.close()
    assert refused.value.code == "admin-jwks"


def test_a_private_key_in_the_jwks_is_refused(world):
    administrated(world, BY_TOKEN)
    jwk = ECKey.import_key(world.idp).as_dict(private=True, kid="one")
    world.path("jwks.json").write_text(json.dumps({"keys": [jwk]}))
    broker = world.broker()
    with pytest.raises(ConfigError) as refused:
        BrokerServer(broker, world.settings(), ready=lambda _: None)
    broker.store.close()
    assert refused.value.code == "admin-jwks"
