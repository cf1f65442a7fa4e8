"""A broker with its files, the guests it knows, and what a test may change about either."""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
import threading
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.binding import KbsBinding
from attestation.broker.app import BrokerServer, open_broker
from attestation.broker.client import KbsClient
from attestation.broker.kek import create_file_kek
from attestation.broker.keyfile import WrappedKey, WrappedSecret, model_key_aad, secret_aad
from attestation.broker.protocol import Attestation, tee_pubkey
from attestation.broker.settings import BrokerSettings
from attestation.codec import b64, parse_json
from attestation.confidential import Confidential
from attestation.simulator.guest import SoftwareGuest
from attestation.simulator.intel import MockIntel
from attestation.simulator.policy import policy_yaml
from attestation.tdx.eventlog import RuntimeEvent
from attestation.types import Digest

NOW = dt.datetime(2026, 11, 25, 12, 0, tzinfo=dt.UTC)
CONFIG = Digest.sha256(b"the measured configuration")
MANIFEST = Digest.sha256(b"the signed manifest")
DOMAIN = "tacit.inference/v1"
MODEL_KEY = "tacit/demo/qwen3"
SECRET = "tacit/demo/pepper"
DEK = bytes(range(32))
PEPPER = b"pepper-" * 8
RULES = {
    "tenant": "acme",
    "not_before": "any",
    "not_after": "never",
    "submods": ["cpu0"],
    "releases": {"most": 100_000, "hours": 1},
    "approvals": 0,
}


def measured_guest(intel, *, config=CONFIG, manifest=MANIFEST, **options):
    guest = SoftwareGuest(intel, **options)
    guest.extend(RuntimeEvent(DOMAIN, "config", str(config)))
    guest.extend(RuntimeEvent(DOMAIN, "model", f"qwen3={manifest}"))
    return guest


def write_tls(certificate: Path, key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2099, 1, 1, tzinfo=dt.UTC))
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    write_key(key, private)


def write_key(path: Path, private=None) -> None:
    private = private or ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


@dataclass
class World:
    directory: Path
    intel: MockIntel
    now: dt.datetime = NOW
    clients: list[KbsClient] = field(default_factory=list)

    @classmethod
    def create(cls, directory: Path, *, now=NOW) -> World:
        intel = MockIntel.generate(now)
        world = cls(directory, intel, now)
        world.kek = create_file_kek(directory / "kek")
        write_key(directory / "token.pem")
        write_tls(directory / "tls.crt", directory / "tls.key")
        world.endorse()
        world.write_policy("default.yaml")
        world.write_policy("resource.yaml")
        world.wrap_model()
        world.wrap_secret()
        world.write_config()
        return world

    def endorse(self, *, now=None, **options) -> None:
        self.path("collateral.json").write_bytes(self.intel.collateral(now or self.now, **options))

    def write_policy(self, name: str, *, report=None, config=CONFIG, manifest=MANIFEST) -> None:
        report = report or SoftwareGuest(self.intel).report
        text = policy_yaml(
            report, self.intel, config=config, models={"qwen3": manifest}, name=name[:-5]
        )
        self.path(name).write_bytes(text)

    def wrap_model(self, *, manifest=MANIFEST, minimum_version=3) -> None:
        aad = model_key_aad(MODEL_KEY, manifest=str(manifest), minimum_version=minimum_version)
        document = WrappedKey(
            version=1,
            resource=MODEL_KEY,
            model="qwen3",
            manifest=str(manifest),
            minimum_version=minimum_version,
            kek=self.kek.id,
            wrapped=b64(self.kek.wrap(Confidential(DEK), aad=aad)),
            created=self.now,
        )
        self.path("model.json").write_bytes(document.model_dump_json().encode())

    def wrap_secret(self) -> None:
        wrapped = self.kek.wrap(Confidential(PEPPER), aad=secret_aad(SECRET))
        document = WrappedSecret(
            version=1,
            kind="secret",
            resource=SECRET,
            kek=self.kek.id,
            wrapped=b64(wrapped),
            created=self.now,
        )
        self.path("pepper.json").write_bytes(document.model_dump_json().encode())

    def write_rules(self, **changes) -> None:
        """Serve the model key under these rules, and nothing else."""
        document = yaml.safe_load(self.path("broker.yaml").read_text())
        document["resources"] = document["resources"][:1]
        document["resources"][0]["rules"] = RULES | changes
        self.path("broker.yaml").write_text(yaml.safe_dump(document))

    def write_config(self, **changes) -> Path:
        document = {
            "version": 1,
            "profile": "simulated",
            "listen": {"host": "127.0.0.1", "port": 0},
            "tls": {"certificate": "tls.crt", "key": "tls.key"},
            "store": "sqlite:broker.db",
            "kek": "file:kek",
            "token_key": "token.pem",
            "endorsements": "collateral.json",
            "policy": "default.yaml",
            "resources": [
                {
                    "resource": MODEL_KEY,
                    "kind": "model-key",
                    "wrapped_key": "model.json",
                    "policy": "resource.yaml",
                    "rules": copy.deepcopy(RULES),
                },
                {
                    "resource": SECRET,
                    "kind": "secret",
                    "wrapped_key": "pepper.json",
                    "policy": "resource.yaml",
                    "rules": copy.deepcopy(RULES),
                },
            ],
            "limits": {"sessions": 16, "session_seconds": 300},
        }
        self.path("broker.yaml").write_text(yaml.safe_dump(document | changes))
        return self.path("broker.yaml")

    def path(self, name: str) -> Path:
        return self.directory / name

    def settings(self) -> BrokerSettings:
        return BrokerSettings.load(self.path("broker.yaml"))

    def broker(self):
        return open_broker(self.settings(), clock=lambda: self.now)

    @contextlib.contextmanager
    def serving(self):
        """Serve over TLS on loopback in a thread; yields (broker, url)."""
        broker = self.broker()
        ports: list[int] = []
        listening = threading.Event()

        def ready(port: int) -> None:
            ports.append(port)
            listening.set()

        server = BrokerServer(broker, self.settings(), ready=ready)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            assert listening.wait(20)
            yield broker, f"https://127.0.0.1:{ports[0]}"
        finally:
            for client in self.clients:
                client.close()
            server.should_exit = True
            thread.join(20)
            broker.close()

    def client(self, url: str, key=None, *, certificate=None) -> KbsClient:
        client = KbsClient(
            url,
            key or ec.generate_private_key(ec.SECP256R1()),
            certificate_pem=certificate or self.path("tls.crt").read_text(),
        )
        self.clients.append(client)
        return client

    def guest(self, **options) -> SoftwareGuest:
        return measured_guest(self.intel, **options)


def bound(client: KbsClient, nonce: str, guest: SoftwareGuest, **other):
    """Evidence of `guest` for `nonce`, bound to the client's key."""
    return guest.evidence(KbsBinding(nonce, other.get("key") or client.tee_pubkey, ""))


def plain_http(url: str) -> httpx2.Client:
    """A client that checks nothing, for what an attacker would send."""
    return httpx2.Client(base_url=url, verify=False, trust_env=False, timeout=30)


def attested(world, url, guest=None):
    client = world.client(url)
    client.attest(bound(client, client.challenge(), guest or world.guest()))
    return client


def raw_attest(url, guest, *, change=lambda message: message):
    """Ask for a challenge and attest without our client, so that anything can be sent."""
    key = tee_pubkey(ec.generate_private_key(ec.SECP256R1()).public_key())
    with plain_http(url) as http:
        challenge = http.post(
            "/kbs/v0/auth", json={"version": "0.4.0", "tee": "tdx", "extra-params": ""}
        )
        assert challenge.status_code == 200, challenge.text
        cookie = {"cookie": challenge.headers["set-cookie"].partition(";")[0]}
        evidence = guest.evidence(KbsBinding(challenge.json()["nonce"], key, ""))
        message = change(parse_json(Attestation.build(evidence).to_bytes()))
        return http.post("/kbs/v0/attest", json=message, headers=cookie)


def code_of(response):
    body = response.json()
    assert body["type"].startswith("https://github.com/confidential-containers/kbs/errors/")
    assert set(body) == {"type", "detail"}
    return response.status_code, body["detail"]
