"""The golden output on the real vLLM: what the boot has checked, asked again with other tokens."""

import asyncio
from pathlib import Path

import pytest

from attestation.errors import NotAffirmed
from attestation.golden import Golden
from scripts.chain.installation import GOLDEN, MODEL
from server.engine.client import EngineClient
from server.golden import check

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def said(demo_checkpoint: Path) -> Golden:
    """What transformers, not vLLM, found after the training."""
    return Golden.model_validate_json((demo_checkpoint / GOLDEN).read_bytes())


def ask(service, golden: Golden) -> None:
    engine = EngineClient(f"{service.world.run_directory}/engine-0/engine.sock")
    asyncio.run(check(engine, golden, model=MODEL, seconds=60))


def refused(service, golden: Golden) -> str:
    with pytest.raises(NotAffirmed) as refusal:
        ask(service, golden)
    return refusal.value.code


def with_token(golden: Golden, place: int, **changes: int) -> Golden:
    tokens = list(golden.tokens)
    tokens[place] = tokens[place].model_copy(update=changes)
    return golden.model_copy(update={"tokens": tuple(tokens)})


def test_another_implementation_s_answer_holds_on_vllm(service, said):
    ask(service, said)


@pytest.mark.parametrize("place", [0, 11, -1])
def test_another_token_does_not(service, said, place):
    other = (said.tokens[place].id + 1) % 1000
    assert refused(service, with_token(said, place, id=other)) == "golden-mismatch"


def test_a_close_token_excuses_no_other_than_the_likeliest(service, said):
    """The engine is sure of token 11; that a signer was not does not excuse another token."""
    other = (said.tokens[11].id + 1) % 1000
    assert refused(service, with_token(said, 11, id=other, lead=3)) == "golden-mismatch"


def test_another_tokenizer_or_template_is_named(service, said):
    assert refused(service, said.model_copy(update={"thinking": False})) == "golden-template"
    ids = (*said.prompt_ids[:-1], said.prompt_ids[-1] + 1)
    assert refused(service, said.model_copy(update={"prompt_ids": ids})) == "golden-template"
