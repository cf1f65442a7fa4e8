"""What a stranger can cost the broker: bounded memory, bounded rows, one verification at most."""

import datetime as dt
import json
import tracemalloc
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.binding import KbsBinding
from attestation.broker.protocol import Attestation, tee_pubkey
from attestation.broker.rate import MAX_SOURCES, TokenBuckets, source
from attestation.errors import NotAuthentic, Refusal, Undecidable
from attestation.types import Endorsements
from tests.broker_world import World, plain_http

REQUEST = b'{"version":"0.4.0","tee":"tdx","extra-params":""}'


@pytest.fixture(name="world")
def _world(tmp_path):
    return World.create(tmp_path)


@pytest.fixture(name="broker")
def _broker(world):
    broker = world.broker()
    yield broker
    broker.store.close()


def test_a_bucket_gives_its_burst_then_its_rate():
    buckets = TokenBuckets(per_minute=60, burst=3)
    for _ in range(3):
        buckets.take("a", now=0.0)
    with pytest.raises(Undecidable) as refused:
        buckets.take("a", now=0.0)
    assert refused.value.code == "rate-limited"
    buckets.take("b", now=0.0)
    buckets.take("a", now=1.0)
    with pytest.raises(Undecidable):
        buckets.take("a", now=1.5)


def test_a_clock_that_goes_back_gives_nothing():
    buckets = TokenBuckets(per_minute=60, burst=1)
    buckets.take("a", now=100.0)
    with pytest.raises(Undecidable):
        buckets.take("a", now=0.0)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("rubbish", "unknown"),
    ],
)
def test_one_machine_is_one_source(host, expected):
    assert source(host) == expected


def test_a_flood_from_everywhere_keeps_a_bounded_number_of_sources():
    buckets = TokenBuckets(per_minute=60, burst=3)
    for number in range(3 * MAX_SOURCES):
        buckets.take(str(number), now=0.0)
    assert len(buckets) == MAX_SOURCES


def test_a_flood_of_challenges_does_not_grow_the_memory(broker):
    def flood(count):
        for _ in range(count):
            broker.challenge(REQUEST)
            broker.native_challenge(b'{"version":1}')

    flood(150)  # caches and prepared statements
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    flood(400)
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 512 * 1024
    assert peak - before < 2 * 1024 * 1024
    assert broker.store.sessions() == broker.limits.sessions


def test_a_source_over_its_rate_is_told_to_wait(world):
    limits = {"sessions": 16, "session_seconds": 300, "per_minute": 1, "burst": 3}
    world.write_config(limits=limits)
    with world.serving() as (broker, url), plain_http(url) as http:
        answers = [http.post("/kbs/v0/auth", content=REQUEST) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].json()["detail"] == "rate-limited"
        assert int(answers[-1].headers["retry-after"]) >= 1
        for path in ("/kbs/v0/attest", "/v1/keys/challenge", "/v1/keys/release"):
            assert http.post(path, content=b"{}").status_code == 429
        assert broker.store.sessions() == 3
        assert http.get("/healthz").status_code == 200


class Counting:
    """An endorser that notes how often somebody began to verify."""

    def __init__(self, inner):
        self._inner, self.asked = inner, 0

    def endorsements(self, quote: bytes) -> Endorsements:
        self.asked += 1
        return self._inner.endorsements(quote)


def counted(broker):
    counting = Counting(broker.endorser)
    return counting, replace(broker, endorser=counting)


def challenged(world, broker):
    session, challenge = broker.challenge(REQUEST)
    key = tee_pubkey(ec.generate_private_key(ec.SECP256R1()).public_key())
    binding = KbsBinding(json.loads(challenge)["nonce"], key, "")
    return session, json.loads(Attestation.build(world.guest().evidence(binding)).to_bytes())


def test_evidence_that_does_not_hold_costs_one_verification_and_its_nonce(world, broker):
    counting, broker = counted(broker)
    session, message = challenged(world, broker)
    message["runtime-data"]["nonce"] = "A" * 43 + "="
    body = json.dumps(message).encode()
    with pytest.raises(NotAuthentic):
        broker.attest(session.id, body)
    for _ in range(10):
        with pytest.raises(NotAuthentic) as refused:
            broker.attest(session.id, body)
        assert refused.value.code == "session-spent"
    assert counting.asked == 1


def test_what_does_not_parse_or_has_no_session_costs_no_verification(world, broker):
    counting, broker = counted(broker)
    session, message = challenged(world, broker)
    whole = json.dumps(message).encode()
    for body in (b"", b"{}", whole[:-1], b"[" * 100_000, whole + b"x"):
        with pytest.raises(Refusal):
            broker.attest(session.id, body)
    for name in (None, "11" * 32):
        with pytest.raises(NotAuthentic):
            broker.attest(name, whole)
    world.now += dt.timedelta(seconds=301)
    with pytest.raises(NotAuthentic):
        broker.attest(session.id, whole)
    assert counting.asked == 0
