"""`tacit prove-retention` as an auditor runs it, against a gateway that keeps nothing or a leak."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from server.cli import main
from server.retention import gateway_vectors, pooling_vectors
from server.retention.asking import OPEN
from server.retention.canary import Canaries
from server.retention.crash import crash, leaves
from server.retention.places import family
from server.retention.senders import Sender
from server.retention.vectors import Writer
from server.routes import router
from server.schemas.pooling import EmbeddingsRequest, RerankRequest
from server.schemas.requests import ChatRequest, CompletionRequest
from server.schemas.responses import ResponsesRequest
from tests.attested_gateway import policy_text, report_of
from tests.gateway_kit import MODEL, EchoEngine, Gateway, prepared, running

ROOT = Path(__file__).parents[2]
WORKER = "import time; time.sleep(600)"
TREE = (
    "import subprocess, sys;"
    "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); print('up', flush=True);"
    "child.wait()"
)


class Leaky(EchoEngine):
    """An engine that writes what it is asked to a file."""

    file = None

    def _seen(self, body):
        if self.file is not None:
            with self.file.open("ab") as kept:
                kept.write(body.reveal())
        return super()._seen(body)


@pytest.fixture(scope="module")
def gateway():
    # the fixed clock of the kit would end its keys for nobody; reports need the present
    gateway = prepared(Leaky(), read_seconds=2, concurrent_requests=64)

    async def report(nonce):
        return report_of(gateway.ready.keyset, nonce)

    gateway.ready = replace(gateway.ready, report=report)
    with running(gateway) as served:
        yield served


@pytest.fixture
def words(gateway: Gateway, tmp_path):
    (tmp_path / "policy.yaml").write_bytes(policy_text())
    (tmp_path / "key").write_text(gateway.api_keys[0])
    files = ["--policy", str(tmp_path / "policy.yaml"), "--api-key", str(tmp_path / "key")]
    return ["prove-retention", gateway.url, *files]


def test_from_elsewhere_nothing_is_proven_although_nothing_is_found(
    gateway, words, tmp_path, capsys
):
    (tmp_path / "token").write_text("a.b.c")
    login = ["--operator-url", gateway.url, "--operator-token", str(tmp_path / "token")]
    assert main([*words, *login]) == 6
    said = capsys.readouterr().out
    assert "log and audit            not searched: give --log" in said
    assert "swap                     not searched: give --pid" in said
    assert "not looked for: token ids" in said
    assert "not a pass" in said
    assert "FOUND" not in said
    # the gateway under test has no listener for operators: its answer is no page of metrics
    assert "not read: /metrics of the operator listener: 401" in said


def test_an_engine_that_keeps_what_it_is_asked_is_found(gateway, words, tmp_path, capsys):
    own = tmp_path / "own"
    own.mkdir()
    gateway.engine.file = own / "requests"
    try:
        assert main([*words, "--directory", str(own), "--json"]) == 5
    finally:
        gateway.engine.file = None
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "found"
    (leaking,) = (sink for sink in document["sinks"] if sink["found"])
    assert leaking["sink"] == "directories"
    assert {found["where"] for found in leaking["found"]} == {str(own / "requests")}
    assert document["requests"] > 100
    assert document["answered"] > 40


def test_a_crash_needs_the_processes_of_the_service(words, capsys):
    assert main([*words, "--crash-engine"]) == 2
    assert "prove-argument" in capsys.readouterr().err


def test_a_service_that_does_not_verify_is_sent_nothing(gateway, words, tmp_path, capsys):
    policy = tmp_path / "policy.yaml"
    text = policy.read_bytes()
    assert b"retention: none" in text
    policy.write_bytes(text.replace(b"operators: any", b"operators: [Somebody Else]"))
    seen = len(gateway.engine.bodies)
    assert main(words) == 5
    assert len(gateway.engine.bodies) == seen


def test_a_file_without_a_key_is_said(words, tmp_path, capsys):
    for text in (b"", b"two words", b"\xff\x00"):
        (tmp_path / "key").write_bytes(text)
        assert main(words) == 2
        assert "prove-argument" in capsys.readouterr().err


def test_a_certificate_that_is_none_is_said(gateway, words, tmp_path, capsys):
    (tmp_path / "pem").write_text("none")
    login = ["--operator-url", gateway.url, "--operator-cert", str(tmp_path / "pem")]
    assert main([*words, *login]) == 2
    assert "prove-argument" in capsys.readouterr().err


def test_settings_of_another_service_are_refused(words, tmp_path, capsys):
    text = (ROOT / "configs/simulated.yaml").read_text().replace("../.tacit", str(tmp_path))
    (tmp_path / "serve.yaml").write_text(text)
    for named in re.findall(rf"{tmp_path}\S+\.(?:pem|pub|crt)", text):
        Path(named).parent.mkdir(parents=True, exist_ok=True)
        Path(named).write_text("a trust file")
    assert main([*words, "--config", str(tmp_path / "serve.yaml")]) == 2
    assert "prove-config" in capsys.readouterr().err


def test_every_route_and_every_field_is_written_to():
    canaries = Canaries.of(bytes(16))
    sent = []
    for task, kind in (
        ("generate", gateway_vectors),
        ("embed", pooling_vectors),
        ("rerank", pooling_vectors),
    ):
        writer = Writer(canaries, MODEL, 1024, task)
        groups = (kind.served, kind.refused, kind.wrong, gateway_vectors.outside)
        sent += [one for group in groups for one in group(writer)]
    paths = {(one.method, one.path.partition("?")[0]) for one in sent}
    paths |= {("GET", path.partition("?")[0]) for path in OPEN}
    for route in router(prepared().ready).routes:
        method = route.endpoint.method
        assert [p for m, p in paths if m == method and route.path_regex.match(p)], route.path
    written = {one.position for one in sent if canaries.head in str((one.path, one.body))}
    for kind in (
        ChatRequest,
        CompletionRequest,
        ResponsesRequest,
        EmbeddingsRequest,
        RerankRequest,
    ):
        assert {f"{kind.__name__} {name}" for name in kind.model_fields} <= written


# -- a crash


def test_only_the_processes_that_start_no_others_are_aborted(gateway):
    with subprocess.Popen(
        [sys.executable, "-c", TREE, WORKER], stdout=subprocess.PIPE, text=True
    ) as root:
        assert root.stdout.readline() == "up\n"
        (worker,) = family([root.pid]) - {root.pid}
        assert leaves([root.pid]) == {worker}
        gateway.engine.delay = 0.5
        try:
            with gateway.client() as client:
                writer = Writer(Canaries.of(bytes(16)), MODEL, 64, "generate")
                after = crash(Sender(client, gateway.url), writer, pids=[root.pid])
        finally:
            gateway.engine.delay = 0
        assert root.wait(10) == 0
    # the gateway under test has its engine elsewhere: its answers were whole
    assert [answer.status for answer in after.answers] == [200] * 4
    assert after.not_provoked == ("a crash during an answer: none was under way",)


def test_a_process_without_children_is_no_engine():
    with subprocess.Popen([sys.executable, "-c", WORKER]) as root:
        time.sleep(0)
        assert leaves([root.pid]) == frozenset()
        root.kill()
