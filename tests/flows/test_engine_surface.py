"""The live engine beside what was reviewed of vLLM's version: routes, command line, environment.

`UPDATE_GOLDENS=1` writes the files anew; whoever does reads the difference.
"""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from tacit_vllm.guard import POOLING, ROUTES

from attestation.client import attested_client
from scripts.chain.processes import ROOT
from server.engine.launch import MODULE
from tests import engine_socket
from tests.chain_kit import ENGINE, Service

pytestmark = pytest.mark.engine

VERSION = "0.32.0"
GOLDEN = ROOT / "tests" / "golden" / f"vllm-{VERSION}"
OURS = {
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/models"),
}
"""Routes of the gateway that vLLM has under the same name."""


def reviewed(name: str, found: list[str]) -> None:
    path = GOLDEN / name
    text = "\n".join(found) + "\n"
    if os.environ.get("UPDATE_GOLDENS"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text.splitlines() == path.read_text().splitlines()


def command_line(service: Service) -> list[str]:
    words = (engine_socket.process(service.world) / "cmdline").read_bytes()
    return words.decode().split("\0")[:-1]


def nameless(service: Service, word: str) -> str:
    """Return `word` without what is particular to this run and machine."""
    world = service.world
    signer = json.loads(command_line(service)[command_line(service).index(LOADER) + 1])["signer"]
    for particular, name in (
        (str(world.run_directory), "RUN"),
        (str(world.directory), "INSTALLATION"),
        (signer, "SIGNER"),
        (str(ENGINE), "PYTHON"),
        (str(ENGINE.parent), "BIN"),
    ):
        word = word.replace(particular, name)
    return word


LOADER = "--model-loader-extra-config"


def test_the_engine_is_the_version_that_was_reviewed():
    packages = ENGINE.parents[1].glob("lib/python*/site-packages/vllm*.dist-info")
    versions = {path.name.removesuffix(".dist-info").split("-")[1] for path in packages}
    assert versions == {VERSION}


def test_the_command_line_is_the_reviewed_one(service):
    words = [nameless(service, word) for word in command_line(service)]
    lines = " ".join(words).replace(" --", "\n--").splitlines()
    reviewed("argv.txt", lines)


def test_the_environment_is_the_reviewed_one(service):
    try:
        data = (engine_socket.process(service.world) / "environ").read_bytes()
    except PermissionError:
        pytest.skip("the engine is not dumpable, so only root reads its environment")
    found = dict(item.split("=", 1) for item in data.decode().split("\0")[:-1])
    assert 0 <= int(found.pop("PYTHONHASHSEED")) < 2**32
    reviewed("environment.txt", sorted(f"{k}={nameless(service, v)}" for k, v in found.items()))


@pytest.fixture(scope="module")
def routes(service) -> list[tuple[str, str]]:
    """Return every route that vLLM's own code makes of the live engine's flags."""
    line = command_line(service)
    flags = line[line.index(MODULE) + 1 :]
    said = subprocess.run(
        [ENGINE, ROOT / "tests" / "vllm_routes.py"],
        input=json.dumps(flags),
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "VLLM_PLUGINS": "", "VLLM_NO_USAGE_STATS": "1"},
    )
    found = json.loads(said.stdout.splitlines()[-1])
    return [tuple(route.split(" ", 1)) for route in found]


def test_vllm_s_route_table_is_the_reviewed_one(routes):
    reviewed("routes.txt", [f"{method} {path}" for method, path in routes])


def test_no_other_route_of_vllm_is_reachable_past_its_guard(service, routes):
    with engine_socket.client(service.world) as engine:
        for method, path in routes:
            asked = "GET" if method == "MOUNT" else method
            answer = engine.request(asked, path.replace("{response_id}", "resp_1"), json={})
            if (asked, path) in ROUTES:
                assert answer.status_code in {200, 400}, (method, path)
            else:
                assert answer.status_code == 404, (method, path)
    assert {route for route in ROUTES if route not in routes} == POOLING


def test_no_other_route_of_vllm_is_reachable_through_the_gateway(service, routes):
    headers = {"authorization": f"Bearer {service.api_key}"}
    with attested_client(service.url, service.policy) as verified:
        for method, path in routes:
            if (method, path) in OURS:
                continue
            asked = "GET" if method == "MOUNT" else method
            url = service.url + path.replace("{response_id}", "resp_1")
            answer = verified.request(asked, url, headers=headers)
            assert answer.status_code == 404, (method, path)
