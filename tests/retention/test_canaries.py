"""A canary in every place a client can write to, and none afterwards in any place that lasts."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from attestation.client import attested_client
from scripts.chain.processes import ROOT, run
from server.retention.canary import Canaries
from server.retention.search import Search, Searched, processes_below
from tests.chain_kit import ENGINE, Service
from tests.retention import vectors
from tests.retention.vectors import CHAT, Sent

pytestmark = pytest.mark.engine

IDS = """
import json, sys
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
print(json.dumps([tokenizer.encode(text).ids for text in sys.argv[2:]]))
"""


@dataclass(frozen=True, slots=True)
class Answered:
    sent: Sent
    status: int
    headers: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """Everything was sent; what came back, and what to look for."""

    canaries: Canaries
    search: Search
    since: int
    answers: tuple[Answered, ...]
    by_engine: tuple[Answered, ...]


@pytest.fixture(scope="module")
def asked(service: Service, demo_checkpoint) -> Asked:
    canaries = Canaries.of(os.urandom(16))
    # text in, ids out, through the tokenizer that the engine uses
    tokenizer = demo_checkpoint / "tokenizer.json"
    ids = json.loads(run([ENGINE, "-c", IDS, tokenizer, canaries.head, canaries.tail]))
    needles = canaries.needles(tokens=dict(zip(("head", "tail"), ids, strict=True)))
    since = time.time_ns()
    with attested_client(service.url, service.policy) as client:
        client.headers["authorization"] = f"Bearer {service.api_key}"
        groups = (vectors.served, vectors.refused, vectors.wrong, vectors.outside)
        answers = [ask(client, service.url, sent) for group in groups for sent in group(canaries)]
        answers += at_once(client, service.url, canaries)
        hang_up(client, service.url, canaries)
        speak_no_http(service.world.port, canaries)
        with httpx2.Client(
            transport=httpx2.HTTPTransport(uds=str(engine_socket(service))), timeout=120
        ) as engine:
            by_engine = [
                ask(engine, "http://engine", sent) for sent in vectors.behind_the_gateway(canaries)
            ]
            by_engine.append(ask(engine, "http://engine", Sent("", b"", "/metrics", "GET")))
        for path in (
            "/v1/models",
            "/healthz",
            "/readyz",
            f"/v1/attestation/report?nonce={'7' * 64}",
        ):
            answers.append(ask(client, service.url, Sent("", b"", path, "GET")))
    return Asked(canaries, Search(needles), since, tuple(answers), tuple(by_engine))


def ask(client: httpx2.Client, url: str, sent: Sent) -> Answered:
    headers = {"content-type": "application/json"} if sent.body else {}
    answer = client.request(
        sent.method, f"{url}{sent.path}", content=sent.body, headers={**headers, **sent.headers}
    )
    return Answered(sent, answer.status_code, str(answer.headers.raw), answer.content)


def at_once(client: httpx2.Client, url: str, canaries: Canaries) -> list[Answered]:
    """Ask more at once than the engine runs, so that requests wait beside one another."""
    positions = [f"neighbour {number}" for number in range(12)]
    requests = [
        vectors.chat(
            position,
            messages=[vectors.user(f"{canaries.at(position)} and {canaries.at(position)}")],
            max_tokens=24,
            temperature=1,
            stream=number % 2 == 0,
        )
        for number, position in enumerate(positions)
    ]
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda sent: ask(client, url, sent), requests))


def hang_up(client: httpx2.Client, url: str, canaries: Canaries) -> None:
    """Leave in the middle of an answer."""
    for number in range(3):
        text = canaries.at(f"hung up {number}")
        sent = vectors.chat(
            "",
            messages=[vectors.user(text)],
            stream=True,
            max_tokens=600,
            ignore_eos=True,
            stop=text,
        )
        headers = {"content-type": "application/json"}
        with client.stream("POST", f"{url}{CHAT}", content=sent.body, headers=headers) as stream:
            assert stream.status_code == 200
            for _, _ in zip(range(2), stream.iter_raw(), strict=False):
                pass


def speak_no_http(port: int, canaries: Canaries) -> None:
    """Send what is no TLS, and inside of TLS what is no HTTP."""
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.sendall(f"GET /{canaries.at('no TLS')} HTTP/1.1\r\n\r\n".encode())
        drain(plain)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is secret here; attested clients do not do this
    name = f"{canaries.at('server name')}.invalid"
    for line in (canaries.at("no HTTP"), f"GET / HTTP/{canaries.at('no version')}"):
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname=name) as secure,
        ):
            secure.sendall(f"{line}\r\n\r\n".encode())
            drain(secure)


def drain(connection: socket.socket) -> None:
    connection.settimeout(10)
    with contextlib.suppress(OSError):
        while connection.recv(4096):
            pass


def engine_socket(service: Service) -> Path:
    return service.world.run_directory / "engine-0" / "engine.sock"


def chain(service: Service) -> dict[int, str]:
    """Return every process of the chain by its id, with the service it belongs to."""
    return {
        pid: running.name
        for running in service.chain.services
        for pid in processes_below(running.process.pid)
    }


def nothing(searched: Searched) -> None:
    assert searched.places, "nothing was searched"
    assert searched.unread == ()
    assert searched.found == ()


# -- what is answered


def test_every_request_is_answered_as_it_should_be(asked):
    everything = (*asked.answers, *asked.by_engine)
    odd = [
        f"{answer.sent.position}: {answer.status}"
        for answer in everything
        if answer.status not in answer.sent.statuses
    ]
    assert not odd, "; ".join(odd)
    assert sum(answer.status == 200 for answer in everything) > 50


def test_no_error_repeats_what_was_sent(asked):
    for answer in (*asked.answers, *asked.by_engine):
        if answer.status >= 400:
            found = asked.search.text(answer.sent.position, answer.body)
            assert found.found == ()


def test_no_header_repeats_what_was_sent(asked):
    for answer in (*asked.answers, *asked.by_engine):
        assert asked.search.text(answer.sent.position, answer.headers.encode()).found == ()


def test_an_answer_holds_nobody_else_s_words(asked):
    for answer in asked.answers:
        own = asked.canaries.at(answer.sent.position).encode()
        others = answer.body.replace(own, b"")
        assert asked.search.text(answer.sent.position, others).found == ()


def test_only_the_model_s_own_words_may_repeat_what_was_sent(asked):
    for answer in asked.answers:
        if answer.status == 200:
            for document in documents(answer.body):
                rest = json.dumps(without_words(document)).encode()
                assert asked.search.text(answer.sent.position, rest).found == ()


def documents(body: bytes) -> Iterator[object]:
    if not body.startswith(b"data:"):
        yield json.loads(body)
        return
    for line in body.splitlines():
        if line.startswith(b"data: {"):
            yield json.loads(line.removeprefix(b"data: "))


def without_words(document: object) -> object:
    if isinstance(document, dict) and isinstance(document.get("choices"), list):
        return {**document, "choices": len(document["choices"])}
    return document


def test_metrics_hold_no_content(asked):
    (metrics,) = (answer for answer in asked.by_engine if answer.sent.path == "/metrics")
    assert b"vllm:" in metrics.body
    assert asked.search.text("metrics", metrics.body).found == ()


# -- what is kept


def test_nothing_is_printed(asked, service):
    lines = service.output
    assert '"audit"' in lines, "the gateway noted no request; nothing was searched"
    nothing(asked.search.text("output", lines.encode()))


def test_the_broker_s_database_holds_nothing(asked, service):
    database = service.world.installation.broker_config.with_name("broker.db")
    assert database.stat().st_size
    nothing(asked.search.tree(database.parent))


def test_the_installation_holds_nothing(asked, service):
    nothing(asked.search.tree(service.world.directory))


def test_the_run_directory_holds_nothing(asked, service):
    assert engine_socket(service).exists()
    nothing(asked.search.tree(service.world.run_directory))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees the engine's own mounts")
def test_the_engine_s_own_mounts_hold_nothing(asked, service):
    scratch = service.world.run_directory / "engine-0" / "scratch"
    searched = Searched()
    # one process of each mount namespace
    mounts = {Path(f"/proc/{pid}/ns/mnt").readlink(): pid for pid in chain(service)}
    assert len(mounts) > 1, "the engine has no mounts of its own"
    for pid in mounts.values():
        root = Path(f"/proc/{pid}/root")
        for place in (scratch, Path("/dev/shm"), Path(tempfile.gettempdir())):
            searched += asked.search.tree(root / place.relative_to("/"), since=asked.since)
    nothing(searched)


def test_no_temporary_file_holds_anything(asked):
    places = {tempfile.gettempdir(), "/tmp", "/var/tmp"}
    searched = sum((asked.search.tree(Path(p), since=asked.since) for p in places), Searched())
    assert searched.places
    assert searched.found == ()


def test_the_code_s_own_directories_hold_nothing(asked):
    for place in (ROOT, Path.home() / ".cache", Path.home() / ".config", Path("/var/log")):
        assert asked.search.tree(place, since=asked.since).found == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="hardened processes are open to root only")
def test_no_process_keeps_anything_in_its_environment_or_files(asked, service):
    processes = chain(service)
    assert {"tdx", "broker", "serve"} <= set(processes.values())
    assert len(processes) >= 5, "the engine was not found below the gateway"
    nothing(sum((asked.search.process(pid) for pid in processes), Searched()))


def test_the_service_still_serves(asked, service):
    with attested_client(service.url, service.policy) as client:
        client.headers["authorization"] = f"Bearer {service.api_key}"
        assert ask(client, service.url, vectors.chat("")).status == 200
