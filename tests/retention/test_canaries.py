"""`tacit prove-retention` on a real service: canaries everywhere, and none where anything lasts."""

from __future__ import annotations

import json
import os
import time

import pytest

from attestation.client import attested_client
from scripts.chain.processes import ROOT
from server.retention.proof import Proof
from server.retention.run import Target, prove
from server.retention.sinks import Local
from server.settings import Settings
from tests.chain_kit import MODEL, Service

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0, reason="hardened processes are open to root only"),
]


@pytest.fixture(scope="module")
def proof(service: Service, tmp_path_factory) -> Proof:
    directory = tmp_path_factory.mktemp("proof")
    settings = Settings.load(service.world.installation.config)
    with service.logged(directory / "log") as log:
        local = Local(
            pids=service.pids,
            logs=(log,),
            run_directory=service.world.run_directory,
            directories=(service.world.directory, ROOT / ".tacit"),
            settings=settings.file,
        )
        target = Target(service.url, service.policy, service.api_key, local, settings)
        return prove(target, random=os.urandom(16), since=time.time_ns())


def test_no_sink_holds_a_canary(proof):
    assert proof.verdict == "nothing-found", proof.to_text()


def test_every_request_is_answered_as_it_should_be(proof):
    assert proof.asked.unexpected == ()
    assert sum(answer.status == 200 for answer in proof.asked.everything) > 50
    assert len(proof.asked.by_engine) > 50


def test_every_sink_was_read_unless_the_attested_settings_have_none(proof):
    assert {sink.name: bool(sink.searched.places) for sink in proof.sinks} == {
        "answers": True,
        "log and audit": True,
        "metrics": False,
        "metrics of the engine": True,
        "telemetry": False,
        "run directory": True,
        "mounts of the engine": True,
        "directories": True,
        "this machine": True,
        "processes": True,
        "core dumps": True,
        "swap": True,
    }


def test_what_could_not_be_brought_about_is_said(proof):
    assert proof.asked.not_provoked == (
        f"time limit of a request to {MODEL}: 600 s is too long to wait for",
    )


def test_a_stalled_client_is_cut_off(proof):
    (stalled,) = (answer for answer in proof.asked.answers if answer.sent.position == "stalled")
    assert stalled.status == 408


def test_the_report_is_for_people_and_for_scripts(proof):
    assert json.loads(json.dumps(proof.to_json()))["verdict"] == "nothing-found"
    assert proof.to_text().endswith("none holds a canary")


def test_the_service_still_serves(proof, service):
    with attested_client(service.url, service.policy) as client:
        client.headers["authorization"] = f"Bearer {service.api_key}"
        assert client.get(f"{service.url}/readyz").status_code == 200
