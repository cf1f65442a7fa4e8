"""What strangers send to the broker over TLS: each body has its status and code, none breaks it."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.broker_world import PEPPER, SECRET, World, attested, code_of, plain_http, raw_attest


@pytest.fixture(name="served")
def _served(tmp_path):
    world = World.create(tmp_path)
    with world.serving() as (broker, url):
        yield world, broker, url


@pytest.mark.parametrize(("path", "size"), [("auth", 65), ("attest", 1025)])
def test_bodies_have_limits(served, path, size):
    _, broker, url = served
    with plain_http(url) as http:
        response = http.post(f"/kbs/v0/{path}", content=b"x" * (size * 1024))
    assert code_of(response) == (413, "too-large")
    assert (path, "too-large") in [row[1:3] for row in broker.store.tallies()]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": "0.3.0"}, "kbs-version"),
        ({"version": "0.4.1"}, "kbs-version"),
        ({"tee": "sample"}, "kbs-tee"),
        ({"more": 1}, "field-invalid"),
    ],
)
def test_a_request_of_another_kind_is_refused(served, change, code):
    _, _, url = served
    request = {"version": "0.4.0", "tee": "tdx", "extra-params": {}} | change
    with plain_http(url) as http:
        assert code_of(http.post("/kbs/v0/auth", json=request)) == (400, code)


def test_other_paths_and_methods_do_not_exist(served):
    _, _, url = served
    with plain_http(url) as http:
        for method, path in (("GET", "/kbs/v0/auth"), ("POST", "/kbs/v0/resource-policy")):
            assert code_of(http.request(method, path)) == (404, "route-unknown")


def test_a_flood_of_challenges_keeps_a_bounded_number_and_no_attested_guest_suffers(served):
    world, broker, url = served
    client = attested(world, url)
    with world.client(url) as flood:
        for _ in range(40):
            flood.challenge()
    assert broker.store.sessions() == 16
    assert client.resource(SECRET).reveal() == PEPPER


FIELDS = (
    "runtime-data",
    "tee-evidence",
    "nonce",
    "tee-pubkey",
    "x",
    "crv",
    "primary_evidence",
    "quote",
    "cc_eventlog",
    "additional_evidence",
    "init-data",
)
HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    where=st.lists(
        st.sampled_from(FIELDS),
        min_size=1,
        max_size=3,
    ),
    value=HOSTILE,
)
def test_no_attestation_body_breaks_the_broker(served, where, value):
    world, _, url = served

    def hostile(message):
        place = message
        for name in where[:-1]:
            place = place[name] if isinstance(place.get(name), dict) else place
        place[where[-1]] = value
        return message

    response = raw_attest(url, world.guest(), change=hostile)
    assert response.status_code in (200, 400, 401, 403, 413, 503)
    if response.status_code != 200:
        code_of(response)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | HOSTILE.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_break_the_broker(served, body):
    _, _, url = served
    with plain_http(url) as http:
        for path in ("auth", "attest"):
            assert code_of(http.post(f"/kbs/v0/{path}", content=body))[0] in (400, 401)
