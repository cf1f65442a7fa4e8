"""`tacit serve` with all that operators can switch on: keys, tenants, logins, a collector; a crash.

The tests run in their order on one engine; the last one crashes it.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import openai
import pytest
from cryptography import x509

from attestation.client import RelyingParty, attested_client
from scripts.chain.processes import call
from server.cli import main
from server.engine.leftovers import SHARED_MEMORY
from server.retention.canary import Canaries
from server.retention.crash import crash, leaves
from server.retention.places import CoreDumps
from server.retention.proof import look
from server.retention.search import Search
from server.retention.senders import Sender
from server.retention.sinks import Local, lasting
from server.retention.vectors import Writer
from tests.chain_kit import MODEL, Service, World, free_port
from tests.collector import Collector, collecting
from tests.logins import AUDIENCE, ISSUER, Authority, Provider, with_certificate

pytestmark = pytest.mark.engine
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="hardened processes are open to root only")

TENANTS = {
    "demo": {
        "requests_per_minute": 600,
        "tokens_per_minute": 100_000,
        "concurrent_requests": 8,
        "models": [MODEL],
    },
    "small": {
        "requests_per_minute": 2,
        "tokens_per_minute": 100_000,
        "concurrent_requests": 1,
        "models": [MODEL],
    },
}
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}


class Operated:
    """A service, and the people who operate it and log in to it."""

    def __init__(self, directory, checkpoint, collector: Collector) -> None:
        now = datetime.now(UTC)
        self.idp, ca = Provider(now), Authority(now)
        jwks, authority = directory / "jwks.json", directory / "ca.pem"
        jwks.write_bytes(self.idp.jwks())
        authority.write_bytes(ca.pem)
        self.operator, name = ca.issue(directory, x509.DNSName("ops"))
        self.client, _ = ca.issue(directory, x509.DNSName("app"))
        self.port, self.collector = free_port(), collector
        self.token = directory / "collector.token"
        self.token.write_text("a-word-for-the-collector")
        trusted = directory / "collector.pem"
        trusted.write_bytes(collector.identity.certificate)
        otlp = {"url": collector.url, "ca": str(trusted), "interval_seconds": 1}
        tokens = {"jwks": str(jwks), "issuer": ISSUER, "audience": AUDIENCE, "tenant_claim": "org"}
        login = {"kind": "mtls", "ca": str(authority), "people": {name: ["admin", "metrics"]}}
        changes = {
            "operator": {"host": "127.0.0.1", "port": self.port, "login": login},
            "tenants": TENANTS,
            "telemetry": {
                "tenants": True,
                "engine": True,
                "otlp": {**otlp, "token": str(self.token)},
            },
            "clients": {
                "tokens": {**tokens, "tenants": {"small-org": "small"}},
                "certificates": {"ca": str(authority), "tenants": {"dns:app": "demo"}},
            },
        }
        self.world = World(directory / "installation", checkpoint=checkpoint, changes=changes)
        self.service: Service

    def apikey(self, *words: str):
        """Run `tacit apikey` over the operator listener, with a certificate; return its JSON."""
        reach = ["--operators", f"https://127.0.0.1:{self.port}", "--service", self.service.url]
        reach += ["--policy", self.service.policy_file, "--cert", self.operator]
        return json.loads(call(main, ["apikey", *words, "--json", *reach]))

    def openai(self, key: str) -> openai.OpenAI:
        """Return a client as the README makes it."""
        verified = attested_client(self.service.url, self.service.policy)
        url = f"{self.service.url}/v1"
        return openai.OpenAI(base_url=url, api_key=key, http_client=verified, max_retries=0)

    def certified(self, url: str, file) -> httpx2.Client:
        """Return a client of the attested key at `url` that logs in with a certificate."""
        session = RelyingParty(self.service.url, self.service.policy).attest()
        return httpx2.Client(base_url=url, verify=with_certificate(session.tls, file), timeout=60)


@pytest.fixture(scope="module")
def operated(tmp_path_factory, demo_checkpoint):
    directory = tmp_path_factory.mktemp("operated")
    with collecting() as collector:
        found = Operated(directory, demo_checkpoint, collector)
        with Service.running(found.world) as found.service:
            yield found


def segments() -> set[str]:
    """Return what lies in shared memory beside the directories of services."""
    return {path.name for path in SHARED_MEMORY.iterdir() if not path.name.startswith("tacit-")}


def test_a_key_is_made_rotated_and_revoked_on_the_running_guest_at_once(operated):
    made = operated.apikey("new", "--tenant", "demo", "--name", "ci")
    with operated.openai(made["key"]) as client:
        assert client.chat.completions.create(**HELLO).usage.completion_tokens
        rotated = operated.apikey("rotate", made["id"], "--hours", "1")
        with operated.openai(rotated["key"]) as renewed:
            assert renewed.models.list().data[0].id == MODEL
        assert client.models.list().data[0].id == MODEL  # for one more hour
        operated.apikey("revoke", made["id"])
        revoked = time.monotonic()
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert time.monotonic() - revoked < 1
    assert caught.value.code == "key-unknown"
    listed = {entry["id"] for entry in operated.apikey("list")}
    assert rotated["id"] in listed
    assert made["id"] not in listed


def test_the_sdk_sees_what_is_left_of_a_quota(operated):
    with operated.openai(operated.service.api_key) as client:
        answer = client.chat.completions.with_raw_response.create(**HELLO)
        used = answer.parse().usage.total_tokens
        headers = client.models.with_raw_response.list().headers
    assert headers["x-ratelimit-limit-requests"] == "600"
    assert headers["x-ratelimit-limit-tokens"] == "100000"
    assert 100_000 - used <= int(headers["x-ratelimit-remaining-tokens"]) + 2000
    assert int(headers["x-ratelimit-remaining-requests"]) < 600


def test_a_token_speaks_for_its_tenant_until_its_quota_is_used_up(operated):
    with operated.openai(operated.idp.token(org="small-org")) as client:
        for _ in range(2):
            assert client.chat.completions.create(**HELLO).usage.completion_tokens
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**HELLO)
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 60
    assert caught.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    stranger = operated.openai(operated.idp.token(org="other-org"))
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    with operated.openai(operated.service.api_key) as client:  # another tenant notices nothing
        assert client.chat.completions.create(**HELLO).choices


def test_a_certificate_speaks_for_its_tenant(operated):
    with operated.certified(operated.service.url, operated.client) as client:
        answer = client.post("/v1/chat/completions", json=HELLO)
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-limit-requests"] == "600"


def test_an_operator_reads_the_numbers_and_a_client_does_not(operated):
    url = f"https://127.0.0.1:{operated.port}"
    with operated.certified(url, operated.operator) as operator:
        numbers = operator.get("/metrics").text
    assert f'gen_ai_request_model="{MODEL}"' in numbers
    assert 'http_response_status_code="429"' in numbers
    with operated.certified(url, operated.client) as client:
        assert client.get("/metrics").status_code == 401  # listed for no role


@as_root
def test_the_collector_is_told_after_a_login_that_no_engine_can_read(operated):
    ends = time.monotonic() + 10
    while not operated.collector.spans():
        assert time.monotonic() < ends
        time.sleep(0.1)
    assert set(operated.collector.logins) == {"Bearer a-word-for-the-collector"}
    for engine in leaves([operated.service.chain.services[-1].process.pid]):
        seen = Path(f"/proc/{engine}/root{operated.token}")
        assert not seen.exists() or seen.read_bytes() == b""


@as_root
def test_an_engine_that_crashes_amid_answers_leaves_nothing_and_the_service_ends(
    operated, tmp_path
):
    service, world = operated.service, operated.world
    before = segments()
    gateway = service.chain.services[-1]
    canaries, since = Canaries.of(os.urandom(16)), time.time_ns()
    engines = leaves([gateway.process.pid])
    assert engines
    dumps = CoreDumps.of(service.pids)
    with service.logged(tmp_path / "log") as log:
        with attested_client(service.url, service.policy) as client:
            client.headers["authorization"] = f"Bearer {service.api_key}"
            sender = Sender(client, service.url)
            asked = crash(
                sender, Writer(canaries, MODEL, 1024, "generate"), pids=[gateway.process.pid]
            )
        assert gateway.process.wait(60) == 1
        pushed = tmp_path / "otlp"
        pushed.write_bytes(b"\n".join(operated.collector.bodies))
        local = Local(
            pids=service.pids,
            logs=(log,),
            telemetry=(pushed,),
            run_directory=world.run_directory,
            directories=(world.directory,),
        )
        places = lasting(asked, canaries, local=local, dumps=dumps, since=since)
        found = {sink.name: sink for sink in look(Search(canaries.needles()), places)}
    assert asked.not_provoked == ()
    assert {name: sink.clean for name, sink in found.items()} == {
        "answers": True,
        "log and audit": True,
        "telemetry": True,
        "run directory": True,
        "directories": True,
        "this machine": True,
        "core dumps": True,
        "swap": True,
    }, found
    for answer in asked.answers:
        assert answer.status == 200
        assert json.loads(answer.body.rpartition(b"data: ")[2])["error"]["code"] == "engine-failed"
    assert not [pid for pid in engines if Path(f"/proc/{pid}").exists()]
    ends = time.monotonic() + 10  # what another test has there for a moment goes
    while segments() - before:
        assert time.monotonic() < ends, segments() - before
        time.sleep(0.5)
    assert not list(world.run_directory.glob("engine-0/*.sock"))
    assert not world.port_is_open()
    assert "an engine ended; draining" in service.output
