"""Two tenants and one prompt: neither finds the other's blocks in the engine's prefix cache."""

from __future__ import annotations

import json

import pytest
from openai import OpenAI

from attestation.client import attested_client
from scripts.chain.installation import MODEL
from scripts.chain.processes import TACIT, run
from tests import engine_socket

pytestmark = pytest.mark.engine

HITS = "vllm:prefix_cache_hits_total"
LONG = " ".join(f"Case {number} is about what a neighbour can measure." for number in range(40))
"""Several blocks of the cache, and nobody else's prompt."""


@pytest.fixture(scope="module")
def other(service) -> str:
    """Return the key of a second tenant."""
    installation = service.world.installation
    words = ["--pepper", installation.broker_config.parent / "pepper", "--json"]
    words += ["--keys", installation.directory / "api-keys.yaml"]
    return json.loads(run([TACIT, "apikey", "new", "--tenant", "neighbour", *words]))["key"]


def found(service, key: str, **asked) -> float:
    """Ask and return how many of the prompt's tokens the engine found in its cache."""
    before = engine_socket.counter(service.world, HITS)
    with attested_client(service.url, service.policy) as verified:
        client = OpenAI(base_url=f"{service.url}/v1", api_key=key, http_client=verified)
        options = {"model": MODEL, "max_tokens": 1, **asked}
        answer = client.chat.completions.create(
            messages=[{"role": "user", "content": LONG}], **options
        )
    assert answer.usage.prompt_tokens > 300
    # what the engine found is nobody's to see: a neighbour's key could be guessed by it
    assert "cached" not in answer.to_json()
    return engine_socket.counter(service.world, HITS) - before


def test_a_tenant_finds_its_own_prompt_again_and_no_other_s(service, other):
    assert found(service, service.api_key) == 0
    assert found(service, service.api_key) > 0
    assert found(service, other) == 0
    assert found(service, other) > 0
