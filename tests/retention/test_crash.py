"""`tacit prove-retention --crash-engine` beside a real service, as auditors run it."""

from __future__ import annotations

import json
import os

import pytest

from server.cli import main
from tests.chain_kit import Service, World

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,  # starts an engine of its own, which it ends
    pytest.mark.skipif(os.geteuid() != 0, reason="hardened processes are open to root only"),
]


@pytest.fixture(scope="module")
def service(tmp_path_factory, demo_checkpoint):
    directory = tmp_path_factory.mktemp("crash") / "installation"
    with Service.running(World(directory, checkpoint=demo_checkpoint)) as running:
        yield running


@pytest.fixture(scope="module")
def words(service, tmp_path_factory):
    """Return the command line of an auditor who stands beside the service."""
    installation = service.world.installation
    with service.logged(tmp_path_factory.mktemp("log") / "log") as log:
        line = ["prove-retention", service.url, "--policy", str(installation.policy)]
        line += ["--api-key", str(installation.api_key), "--config", str(installation.config)]
        line += ["--log", str(log), "--directory", str(service.world.directory)]
        for pid in service.pids:
            line += ["--pid", str(pid)]
        yield line


def test_beside_the_service_everything_is_searched_and_nothing_found(words, capsys):
    status = main(words)
    said = capsys.readouterr().out
    print(said)
    assert status == 0
    assert "none holds a canary" in said


def test_a_crash_amid_answers_leaves_nothing(service, words, capsys):
    status = main([*words, "--crash-engine", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert status == 0, json.dumps(document, indent=1)
    after = [sink for sink in document["sinks"] if sink["sink"].endswith("after a crash")]
    assert {sink["sink"].partition(",")[0] for sink in after} == {
        "answers",
        "log and audit",
        "telemetry",
        "run directory",
        "directories",
        "this machine",
        "core dumps",
        "swap",
    }
    assert not [words for words in document["not_provoked"] if "crash" in words]
    gateway = service.chain.services[-1]
    assert gateway.process.wait(60) == 1  # an engine ended underneath
