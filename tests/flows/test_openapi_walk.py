"""Bodies of our OpenAPI document against the running service: nothing it takes makes it fail."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestation.client import attested_client
from scripts.chain.installation import MODEL
from server.errors import MESSAGES
from server.schemas.openapi import document
from tests.schema_walk import values

pytestmark = pytest.mark.engine

SECONDS = 6
"""For each route; a walk that is slower ends earlier."""
SHORT = {
    "/v1/chat/completions": ("ChatRequest", {"max_completion_tokens": 3, "max_tokens": 3}),
    "/v1/completions": ("CompletionRequest", {"max_tokens": 3}),
    "/v1/responses": ("ResponsesRequest", {"max_output_tokens": 3}),
}


@pytest.mark.parametrize("path", SHORT)
def test_no_documented_body_makes_the_service_fail(service, path):
    found = document()["components"]["schemas"]
    name, short = SHORT[path]
    ends = time.monotonic() + SECONDS
    asked, statuses = 0, set()
    headers = {"authorization": f"Bearer {service.api_key}"}

    @settings(max_examples=300, database=None, suppress_health_check=list(HealthCheck))
    @given(values(found[name], found), st.integers(1, 2))
    def walk(body, n):
        nonlocal asked
        if time.monotonic() > ends:
            return
        body |= {"model": MODEL, "min_tokens": 0, **short}
        if path == "/v1/responses":
            del body["min_tokens"]
        elif "n" in body:
            body["n"] = n
        answer = client.post(f"{service.url}{path}", json=body, headers=headers)
        asked += 1
        statuses.add(answer.status_code)
        assert answer.status_code in {200, 400}, answer.text
        for line in answer.text.splitlines():
            if '"error":{' in line or '"error": {' in line:
                error = json.loads(line.removeprefix("data: "))["error"]
                assert error["type"] == "invalid_request_error", (error, body)
                assert error["message"] == MESSAGES[error["code"]]

    with attested_client(service.url, service.policy) as client:
        walk()
    assert asked > 5
    assert 200 in statuses
