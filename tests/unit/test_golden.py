"""The golden output: clear tokens must come out, close ones may lose narrowly, others never."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError

from attestation import dsse
from attestation.cli import main
from attestation.codec import canonical_json
from attestation.errors import ConfigError, Malformed, NotAffirmed, Undecidable
from attestation.golden import LEAST_CLEAR, TOLERANCE, Golden, GoldenToken
from attestation.manifest import MANIFEST, Manifest
from attestation.weights import seal
from scripts.chain.installation import MODEL, configure
from scripts.chain.processes import ROOT
from scripts.golden_output.document import golden as write_down
from server.golden import check
from server.packages import open_packages
from server.settings import Settings
from tests.golden_engine import Answers, GoldenEngine, golden
from tests.sealed_world import DEK, KEY_URI, SIGNER, write_model

EXAMPLE = ROOT / "configs" / "simulated.yaml"


def ask(engine: GoldenEngine, said: Golden) -> None:
    asyncio.run(check(engine, said, model="qwen3", seconds=5))


def refused(engine: GoldenEngine, said: Golden) -> str:
    with pytest.raises((NotAffirmed, Undecidable)) as refusal:
        ask(engine, said)
    return refusal.value.code


def test_the_same_answer_passes_in_two_questions() -> None:
    said = golden()
    engine = GoldenEngine(Answers.to(said))
    ask(engine, said)
    (chat, first), (completions, second) = engine.asked
    assert (chat, completions) == ("/v1/chat/completions", "/v1/completions")
    assert first["messages"] == [{"role": "user", "content": said.prompt}]
    assert first["chat_template_kwargs"] == {"enable_thinking": True}
    assert second["prompt"] == list(said.prompt_ids)
    assert second["max_tokens"] == len(said.tokens)
    assert (first["temperature"], second["temperature"]) == (0, 0)


@pytest.mark.parametrize("place", range(12))
def test_another_token_in_the_place_of_a_clear_one_is_a_mismatch(place: int) -> None:
    answers = Answers.to(golden()).chooses(place, 55, ahead=0.001)
    assert refused(GoldenEngine(answers), golden()) == "golden-mismatch"


def test_a_close_token_may_lose_narrowly_and_the_rest_is_asked_for_behind_it() -> None:
    said = golden(close=frozenset({3, 11}))
    answers = Answers.to(said).chooses(3, 55, ahead=0.2).chooses(11, 56, ahead=0.4)
    engine = GoldenEngine(answers)
    ask(engine, said)
    (_, resumed) = engine.asked[2]
    assert resumed["prompt"] == [5, 6, 7, 100, 101, 102, 103]
    assert resumed["max_tokens"] == 8
    assert len(engine.asked) == 3  # nothing is left to ask behind the last


def test_a_close_token_may_not_lose_clearly() -> None:
    said = golden(close=frozenset({3}))
    answers = Answers.to(said).chooses(3, 55, ahead=TOLERANCE / 1000 + 0.01)
    assert refused(GoldenEngine(answers), said) == "golden-mismatch"


def test_a_clear_token_behind_a_close_one_is_still_checked() -> None:
    said = golden(close=frozenset({3}))
    answers = Answers.to(said).chooses(3, 55, ahead=0.2).chooses(9, 56, ahead=0.2)
    assert refused(GoldenEngine(answers), said) == "golden-mismatch"


def test_the_right_token_by_other_odds_is_a_mismatch() -> None:
    answers = Answers.to(golden())
    answers.steps[5] = (105, {105: -0.9, 9: -1.0})
    assert refused(GoldenEngine(answers), golden()) == "golden-mismatch"


def test_a_token_that_is_not_among_the_likeliest_is_a_mismatch() -> None:
    said = golden(close=frozenset({3}))
    answers = Answers.to(said)
    answers.steps[3] = (55, {55: -0.1, 9: -0.2})
    assert refused(GoldenEngine(answers), said) == "golden-mismatch"


def test_an_answer_that_ends_early_is_a_mismatch() -> None:
    answers = Answers.to(golden())
    del answers.steps[7:]
    assert refused(GoldenEngine(answers), golden()) == "golden-mismatch"


@pytest.mark.parametrize("ids", [[5, 6], [5, 6, 8], [5, 6, 7, 7], []])
def test_another_template_or_tokenizer_is_named(ids: list[int]) -> None:
    answers = Answers.to(golden())
    answers.prompt = ids
    assert refused(GoldenEngine(answers), golden()) == "golden-template"


def test_an_engine_that_fails_leaves_it_undecided() -> None:
    engine = GoldenEngine(Answers.to(golden()), status=500)
    assert refused(engine, golden()) == "golden-unanswered"


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"token_ids": [100], "logprobs": None},
        {"token_ids": [100], "logprobs": {"top_logprobs": [None]}},
        {"token_ids": [100], "logprobs": {"top_logprobs": [{"token_id:100": None}]}},
        {"token_ids": [100], "logprobs": {"top_logprobs": [{"token_id:101": -0.1}]}},
        {"token_ids": [100], "logprobs": {"top_logprobs": [{"word": -0.1}]}},
        {"token_ids": [100, 101], "logprobs": {"top_logprobs": [{"token_id:100": -0.1}]}},
        {"token_ids": ["100"], "logprobs": {"top_logprobs": [{"token_id:100": -0.1}]}},
        {"token_ids": [[]], "logprobs": {"top_logprobs": [{"token_id:100": -0.1}]}},
    ],
)
def test_an_answer_of_another_form_leaves_it_undecided(choice: Any) -> None:
    class Odd(GoldenEngine):
        def _answer(self, request: dict[str, Any]) -> Any:
            return super()._answer(request) if "messages" in request else {"choices": [choice]}

    assert refused(Odd(Answers.to(golden())), golden()) == "golden-unanswered"


@pytest.mark.parametrize("answer", [[], None, {"choices": []}, {"choices": 5}])
def test_no_choice_leaves_it_undecided(answer: Any) -> None:
    class Odd(GoldenEngine):
        def _answer(self, request: dict[str, Any]) -> Any:
            return super()._answer(request) if "messages" in request else answer

    assert refused(Odd(Answers.to(golden())), golden()) == "golden-unanswered"


def test_an_engine_that_hangs_leaves_it_undecided() -> None:
    class Slow(GoldenEngine):
        async def call(self, path: str, body: Any) -> Any:
            await asyncio.sleep(60)

    with pytest.raises(Undecidable) as refusal:
        asyncio.run(check(Slow(Answers.to(golden())), golden(), model="qwen3", seconds=0.05))
    assert refusal.value.code == "golden-unanswered"


def test_too_few_clear_tokens_are_no_golden_output() -> None:
    close = frozenset(range(12 - LEAST_CLEAR + 1))
    with pytest.raises(ValidationError, match="any weights might pass"):
        golden(close=close)
    assert golden(close=close - {0}).tokens


def test_a_lead_of_exactly_the_tolerance_is_not_clear() -> None:
    assert not GoldenToken(id=1, surprise=0, lead=TOLERANCE).clear
    assert GoldenToken(id=1, surprise=0, lead=TOLERANCE + 1).clear


def test_it_survives_its_own_json() -> None:
    said = golden(close=frozenset({1}))
    assert Golden.model_validate_json(json.dumps(said.model_dump(mode="json"))) == said


# -- written down by whoever seals


def odds(*nats: float) -> dict[int, float]:
    return {100 + place: -nat for place, nat in enumerate(nats)}


def written(*steps: dict[int, float], ends: tuple[int, ...] = ()) -> Golden:
    return write_down("Hi", thinking=False, prompt_ids=[1, 2], steps=steps, ends=ends)


def test_the_likeliest_token_is_noted_with_its_odds_and_its_lead() -> None:
    said = written({9: -3.5, 7: -0.0604, 8: -3.25}, *[odds(0.01, 4)] * 8)
    assert said.tokens[0] == GoldenToken(id=7, surprise=60, lead=3190)
    assert (said.prompt, said.prompt_ids, said.thinking) == ("Hi", (1, 2), False)


def test_nothing_is_noted_behind_the_end() -> None:
    assert len(written(*[odds(0.01, 4)] * 8, {5: -0.1, 6: -3}, odds(0, 9), ends=(5,)).tokens) == 9


def test_an_answer_that_any_weights_would_give_is_not_written_down() -> None:
    with pytest.raises(ValueError, match="any weights might pass"):
        written(*[odds(0.6, 0.7)] * 20)


# -- signed with the weights


def sealed(directory: Path, said: Golden | None) -> Path:
    model = write_model(directory / "model", shard_bytes=1000)
    names = {"name": MODEL, "version": 1, "key_uri": KEY_URI}
    seal(model, directory / "package", dek=DEK, signer=SIGNER, golden=said, **names)
    return directory / "package"


def test_the_manifest_signs_it(tmp_path: Path) -> None:
    said = golden(close=frozenset({1}))
    envelope = (sealed(tmp_path, said) / MANIFEST).read_bytes()
    assert Manifest.open(envelope, signer=SIGNER.public_key()).golden == said


def test_a_manifest_may_be_without_one(tmp_path: Path) -> None:
    envelope = (sealed(tmp_path, None) / MANIFEST).read_bytes()
    assert Manifest.open(envelope, signer=SIGNER.public_key()).golden is None
    assert b"golden" not in dsse.verify(envelope, signer=SIGNER.public_key())


def test_a_signed_one_that_any_weights_would_pass_is_malformed(tmp_path: Path) -> None:
    envelope = (sealed(tmp_path, golden()) / MANIFEST).read_bytes()
    statement = json.loads(dsse.verify(envelope, signer=SIGNER.public_key()))
    for token in statement["predicate"]["golden"]["tokens"]:
        token["lead"] = TOLERANCE
    with pytest.raises(Malformed):
        Manifest.open(
            dsse.sign(canonical_json(statement), signer=SIGNER), signer=SIGNER.public_key()
        )


@pytest.mark.parametrize("text", ["", "{}", "[1]", golden().model_dump_json() + "x"])
def test_seal_refuses_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "golden.json").write_text(text)
    model = write_model(tmp_path / "model", shard_bytes=1000)
    words = ["--key", f"file:{tmp_path}/kek", "--golden", str(tmp_path / "golden.json")]
    assert main(["kek", "new", str(tmp_path / "kek")]) == 0
    assert main(["seal", str(model), str(tmp_path / "out"), *words]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("said", [None, golden()])
def test_production_serves_no_model_without_one(tmp_path: Path, said: Golden | None) -> None:
    settings = production(tmp_path, sealed(tmp_path, said))
    if said is not None:
        assert open_packages(settings)[MODEL].manifest.golden == said
        return
    with pytest.raises(ConfigError) as refusal:
        open_packages(settings)
    assert refusal.value.code == "golden-missing"


@pytest.mark.parametrize("task", ["embed", "rerank"])
def test_a_model_that_says_nothing_needs_none_and_one_that_nobody_checks_is_refused(
    tmp_path: Path, task: str
) -> None:
    bare, checked = tmp_path / "bare", tmp_path / "checked"
    bare.mkdir()
    checked.mkdir()
    settings = production(tmp_path, sealed(bare, None), task=task)
    assert open_packages(settings)[MODEL].manifest.golden is None
    settings = production(tmp_path, sealed(checked, golden()), task=task)
    with pytest.raises(ConfigError) as refusal:
        open_packages(settings)
    assert refusal.value.code == "golden-task"


def production(directory: Path, package: Path, *, task: str = "generate") -> Settings:
    """Return settings of a deployment on hardware that serves `package`."""
    pem = SIGNER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (directory / "signer.pub").write_bytes(pem)
    (directory / "tls.crt").write_bytes(b"")
    (directory / "token.pub").write_bytes(b"")
    changes = {
        "profile": "production",
        "attestation": {"mode": "tdx", "endorsements": "collateral.json"},
        "gpu": {"mode": "none"},
        "broker.certificate": "tls.crt",
        "broker.statement_key": "token.pub",
        f"models.{MODEL}.sealed": str(package),
        f"models.{MODEL}.signer": "signer.pub",
        f"models.{MODEL}.engine.isolation": "required",
    }
    path = configure(EXAMPLE, directory / "serve.yaml", state=directory, changes=changes)
    if task != "generate":
        document = yaml.safe_load(path.read_text())
        engine = document["models"][MODEL]["engine"]
        del engine["reasoning"], engine["tool_call_parser"]
        engine["task"] = task
        path.write_text(yaml.safe_dump(document))
    return Settings.load(path)
