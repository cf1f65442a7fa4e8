"""Two brokers on one PostgreSQL: one release log, one use of a nonce, and either may be killed."""

from __future__ import annotations

import contextlib
import datetime as dt
import subprocess
import sys
import threading
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.broker.releaselog import verify_chain
from attestation.broker.store import Store
from attestation.codec import parse_json
from attestation.errors import NotAuthentic, Refusal
from tests.broker_world import SECRET, World, bound
from tests.postgres_server import new_database


@pytest.fixture(name="world")
def _world(tmp_path):
    world = World.create(tmp_path, now=dt.datetime.now(dt.UTC))
    world.write_config(store=new_database())
    return world


@contextlib.contextmanager
def brokers(world, count):
    """Yield [(process, url)] of that many `tacit broker` with the same files."""
    command = [sys.executable, "-m", "attestation.cli", "broker", str(world.path("broker.yaml"))]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        lines = [process.stderr.readline() for process in started]
        assert all("ready on https://127.0.0.1:" in line for line in lines), lines
        yield [(p, line.split()[4]) for p, line in zip(started, lines, strict=True)]
    finally:
        for process in started:
            process.kill()
            process.wait(10)
            process.stderr.close()


def recorded(world):
    store = Store.existing(world.settings().store_url)
    verify_chain(store.releases())
    entries = [parse_json(item.entry) for item in store.releases()]
    store.close()
    return entries


def test_two_brokers_are_one_and_either_may_be_killed_mid_release(world):
    with brokers(world, 2) as ((first, first_url), (second, second_url)):
        # a session of one broker goes on at the other
        key = ec.generate_private_key(ec.SECP256R1())
        here, there = world.client(first_url, key), world.client(second_url, key)
        evidence = bound(here, here.challenge(), world.guest())
        there._cookie = here._cookie
        there.attest(evidence)
        assert here.resource(SECRET).reveal() == there.resource(SECRET).reveal()
        # and its nonce is spent for both
        for client in (here, there):
            with pytest.raises(NotAuthentic, match="session-spent"):
                client.attest(evidence)
            client.close()
        answered = {first_url: 0, second_url: 0}
        stop = threading.Event()

        def ask(url):
            with contextlib.suppress(Refusal):
                while not stop.is_set():
                    with world.client(url) as client:
                        client.attest(bound(client, client.challenge(), world.guest()))
                        for _ in range(30):
                            if stop.is_set():
                                return
                            client.resource(SECRET)
                            answered[url] += 1

        threads = [threading.Thread(target=ask, args=(url,)) for url in (first_url, second_url)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 30
        while min(answered.values()) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        first.kill()  # in the middle of whatever it does
        first.wait(10)
        survivor = answered[second_url]
        while answered[second_url] < survivor + 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert answered[second_url] >= survivor + 5
        second.kill()
        stop.set()
        for thread in threads:
            thread.join(30)
    released = [entry for entry in recorded(world) if entry["event"] == "released"]
    # every answer is recorded; at most the two in flight are recorded and were not answered
    assert 0 <= len(released) - 2 - sum(answered.values()) <= 2
    with brokers(world, 1) as ((_, url),), world.client(url) as client:
        client.attest(bound(client, client.challenge(), world.guest()))
        assert client.resource(SECRET)


def test_one_nonce_at_two_brokers_at_once_attests_once(world):
    served = [world.broker() for _ in range(2)]
    request = b'{"version":"0.4.0","tee":"tdx","extra-params":""}'
    from attestation.binding import KbsBinding
    from attestation.broker.protocol import Attestation, tee_pubkey

    key = tee_pubkey(ec.generate_private_key(ec.SECP256R1()).public_key())
    for _ in range(5):
        session, challenge = served[0].challenge(request)
        evidence = world.guest().evidence(KbsBinding(parse_json(challenge)["nonce"], key, ""))
        body = Attestation.build(evidence).to_bytes()
        outcomes = []
        ready = threading.Barrier(4)

        def attest(broker, *, session=session, body=body, outcomes=outcomes, ready=ready):
            ready.wait()
            try:
                broker.attest(session.id, body)
                outcomes.append("attested")
            except NotAuthentic as refused:
                outcomes.append(refused.code)

        threads = [threading.Thread(target=attest, args=(broker,)) for broker in served * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(outcomes) == ["attested"] + ["session-spent"] * 3
    for broker in served:
        broker.store.close()
