"""The broker as a process: first run, readiness, SIGTERM, and what kill -9 leaves behind."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from attestation.broker.releaselog import verify_chain
from attestation.broker.store import Store
from attestation.errors import Refusal
from tests.broker_world import MODEL_KEY, SECRET, World, bound

TACIT = (sys.executable, "-m", "attestation.cli")


def tacit(*args, stdin=b""):
    return subprocess.run(
        [*TACIT, *args], input=stdin, capture_output=True, timeout=60, check=False
    )


@pytest.fixture(name="world")
def _world(tmp_path):
    return World.create(tmp_path, now=dt.datetime.now(dt.UTC))


@contextlib.contextmanager
def running(world):
    """Yield (process, url) of `tacit broker` once it says that it is ready."""
    process = subprocess.Popen(
        [*TACIT, "broker", str(world.path("broker.yaml"))], stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stderr.readline()
        assert "ready on https://127.0.0.1:" in line, line
        assert "simulated" in line
        yield process, line.split()[4]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        process.stderr.close()


def attested(world, url):
    client = world.client(url)
    client.attest(bound(client, client.challenge(), world.guest()))
    return client


def test_sigterm_ends_it_well_and_the_log_verifies(world):
    with running(world) as (process, url):
        with attested(world, url) as client:
            client.model_key(MODEL_KEY)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
    listed = tacit("releases", str(world.path("broker.yaml")), "--json")
    answer = json.loads(listed.stdout)
    assert [entry["event"] for entry in answer["entries"]] == [
        "imported",
        "imported",
        "attested",
        "released",
    ]
    again = tacit("releases", str(world.path("broker.yaml")), "--since", answer["head"])
    assert again.returncode == 0
    unknown = tacit("releases", str(world.path("broker.yaml")), "--since", "sha256:" + "11" * 32)
    assert unknown.returncode == 4


def test_kill_9_leaves_a_chain_that_holds_every_answered_release(world):
    answered = 0
    with running(world) as (process, url), attested(world, url) as client:
        timer = threading.Timer(0.7, process.kill)
        timer.start()
        deadline = time.monotonic() + 20
        with contextlib.suppress(Refusal):
            while time.monotonic() < deadline:
                if answered % 60 == 59:
                    client.attest(bound(client, client.challenge(), world.guest()))
                client.resource(SECRET)
                answered += 1
        timer.join()
    store = Store.existing(world.settings().store_url)
    recorded = [item for item in store.releases() if b'"event":"released"' in item.entry]
    verify_chain(store.releases())
    store.close()
    assert answered > 0
    assert answered <= len(recorded) <= answered + 1
    with running(world) as (_, url), attested(world, url) as client:
        assert client.resource(SECRET)


def test_a_first_run_needs_three_commands(world, tmp_path):
    for name in ("kek", "token.pem", "tls.crt", "tls.key", "pepper.json", "model.json"):
        world.path(name).unlink()
    config = str(world.path("broker.yaml"))
    made = tacit("broker", config, "--init", "--json")
    assert len(json.loads(made.stdout)["made"]) == 5
    assert json.loads(tacit("broker", config, "--init", "--json").stdout)["made"] == []
    out = str(world.path("pepper.json"))
    key = f"file:{world.path('kek')}"
    assert tacit("wrap", SECRET, "--key", key, "--out", out, stdin=b"secret").returncode == 0
    world.write_config(
        resources=[
            {"resource": SECRET, "kind": "secret", "wrapped_key": out, "policy": "resource.yaml"}
        ]
    )
    checked = tacit("broker", config, "--check")
    assert (checked.returncode, checked.stdout) == (0, f"{SECRET}\n".encode())
    with running(world) as (_, url), attested(world, url) as client:
        assert client.resource(SECRET).reveal() == b"secret"


def test_an_address_in_use_is_a_configuration_error(world):
    with running(world) as (_, url):
        port = int(url.rpartition(":")[2])
        world.write_config(listen={"host": "127.0.0.1", "port": port})
        second = tacit("broker", str(world.path("broker.yaml")))
    assert second.returncode == 2
    assert b"broker-listen" in second.stderr
