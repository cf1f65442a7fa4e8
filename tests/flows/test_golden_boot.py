"""Validly sealed, signed and released weights whose loaded model answers wrongly: no port opens."""

import contextlib
import shutil
from pathlib import Path

import pytest

from scripts.chain.installation import MODEL, key_of
from scripts.chain.processes import TACIT, run, started
from tests.chain_kit import ENGINE, World
from tests.golden_engine import Answers, environment, golden

SAID = golden(close=frozenset({2}))


@pytest.fixture(scope="module")
def signed(installed: World, checkpoint: Path, tmp_path_factory) -> World:
    """Return an installation whose package was sealed with a golden output."""
    world = installed.fork(tmp_path_factory.mktemp("golden") / "installation")
    sealed, keys = world.installation.sealed, world.installation.broker_config.parent
    shutil.rmtree(sealed)
    sealed.with_name(f"{MODEL}.key.json").unlink()
    (world.directory / "golden.json").write_text(SAID.model_dump_json())
    words = ["--sign", world.directory / "keys" / "model-signer.pem", "--name", MODEL]
    words += ["--golden", world.directory / "golden.json"]
    kek = f"file:{keys}/kek"
    run([TACIT, "seal", checkpoint, sealed, "--key", kek, "--resource", key_of(MODEL), *words])
    return world


@contextlib.contextmanager
def served_by(signed: World, directory: Path, answers: Answers):
    """Give the installation an engine that says `answers`, whatever was sealed."""
    world = signed.fork(directory / "installation")
    config, python = world.installation.config, environment(directory / "engine", answers)
    config.write_text(config.read_text().replace(str(ENGINE), str(python)))
    world.installation.write_policy()
    try:
        with world.software_tdx(), world.broker():
            yield world
    finally:
        world.remove()


@pytest.mark.parametrize(
    ("broken", "code"),
    [("tokens", "golden-mismatch"), ("template", "golden-template")],
)
def test_a_model_that_answers_wrongly_stops_the_boot(signed, tmp_path, broken, code):
    answers = Answers.to(SAID)
    if broken == "tokens":
        answers.chooses(7, 55, ahead=0.01)
    else:
        answers.prompt[1] += 1
    with served_by(signed, tmp_path, answers) as world:
        outcome = world.serve()
    assert (outcome.code, outcome.status) == (code, 5), outcome.output
    assert not outcome.opened
    assert "engine ready" in outcome.output


def test_a_model_that_answers_as_signed_is_served(signed, tmp_path):
    answers = Answers.to(SAID).chooses(2, 55, ahead=0.1)  # close, as its signer said
    with served_by(signed, tmp_path, answers) as world:
        line = [TACIT, "serve", world.installation.config]
        with started("serve", line, sign="tacit: ready on") as gateway:
            gateway.wait_ready(seconds=60)
            assert world.port_is_open()
