"""`tacit doctor`: every part of the hardening has a line, and each is found by trying it."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from attestation.errors import ConfigError
from scripts.chain.processes import ROOT
from server.engine.isolation import NONE, Isolation, probe
from server.engine.surroundings import surroundings

PYTHON = str(Path(sys.executable).resolve())
ENGINE = {
    "engine-environment",
    "engine-silent",
    "engine-no-network",
    "engine-tmp-private",
    "engine-shm-private",
    "engine-sees-itself",
    "engine-no-privileges",
    "engine-no-core-dumps",
}
GATEWAY = {
    "no-preloaded-code",
    "environment-emptied",
    "no-core-dumps",
    "not-dumpable",
    "no-new-privileges",
    "files-private",
    "no-fault-reports",
    "closed-reports",
    "no-debug-mode",
}
MACHINE = {
    "no-swap",
    "no-core-collector",
    "no-crash-kernel",
    "no-hibernation",
    "ptrace-restricted",
    "tdx-guest",
    "engine-isolated",
}


@dataclass
class Doctor:
    status: int
    findings: dict[str, dict]
    production: bool


@pytest.fixture(scope="module")
def doctor() -> Doctor:
    tacit = Path(sys.executable).with_name("tacit")
    done = subprocess.run(
        [tacit, "doctor", "--json", "--engine-python", PYTHON],
        capture_output=True,
        check=False,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "HF_TOKEN": "CANARY"},
    )
    assert b"CANARY" not in done.stdout + done.stderr
    document = json.loads(done.stdout)
    findings = {item["id"]: item for item in document["findings"]}
    return Doctor(done.returncode, findings, document["production"])


def test_every_part_has_a_line(doctor):
    assert doctor.findings.keys() == GATEWAY | MACHINE | ENGINE


def test_what_the_gateway_does_itself_holds_on_every_machine(doctor):
    assert all(doctor.findings[name]["enforced"] for name in GATEWAY)


def test_what_lacks_decides_whether_production_may_serve(doctor):
    lacking = [
        item
        for item in doctor.findings.values()
        if item["required_in_production"] and not item["enforced"]
    ]
    assert doctor.production == (not lacking)
    assert doctor.status == (5 if lacking else 0)


async def test_an_engine_s_surroundings_are_as_granted():
    granted = await probe(PYTHON)
    if not granted.complete:
        pytest.skip("this machine grants no namespaces")
    found = {item.id: item.enforced for item in await surroundings(PYTHON, granted)}
    assert found == dict.fromkeys(ENGINE, True)


async def test_without_namespaces_the_surroundings_are_shared_and_it_is_said():
    found = {item.id: item.enforced for item in await surroundings(PYTHON, NONE)}
    shared = {name for name, enforced in found.items() if not enforced}
    assert shared >= {"engine-tmp-private", "engine-sees-itself", "engine-shm-private"}
    assert found["engine-no-privileges"]
    assert found["engine-no-core-dumps"]
    assert found["engine-environment"]


async def test_an_engine_that_cannot_be_started_fails_every_finding():
    impossible = Isolation(frozenset({"pid"}))  # a /proc of its own needs mounts of its own
    found = await surroundings("/bin/false", impossible)
    assert {item.id for item in found} == ENGINE
    assert not any(item.enforced for item in found)


async def test_an_interpreter_that_is_missing_is_a_configuration_error():
    with pytest.raises(ConfigError, match="cannot be run"):
        await surroundings("/nowhere/python", NONE)


def test_the_interpreter_of_each_engine_is_tried(tmp_path):
    document = yaml.safe_load((ROOT / "configs" / "simulated.yaml").read_text())
    (model,) = document["models"].values()
    for name, python in {"first": PYTHON, "second": "/nowhere/python"}.items():
        document["models"][name] = model | {"engine": model["engine"] | {"python": python}}
    del document["models"]["qwen3-demo"]
    config = tmp_path / "serve.yaml"
    config.write_text(yaml.safe_dump(document).replace("../.tacit", str(tmp_path)))
    for named in re.findall(rf"{tmp_path}\S+\.(?:pem|pub|crt)", config.read_text()):
        Path(named).parent.mkdir(parents=True, exist_ok=True)
        Path(named).write_text("a trust file")
    tacit = Path(sys.executable).with_name("tacit")
    done = subprocess.run([tacit, "doctor", config], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "(engine-python)" in done.stderr
