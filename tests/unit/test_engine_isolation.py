"""Isolation: what a machine grants is found by trying, and settings decide what that means."""

import sys
from pathlib import Path

import pytest

from attestation.errors import ConfigError
from server.engine.isolation import NONE, Isolation, decide, finding, probe

PYTHON = str(Path(sys.executable).resolve())
ALL = Isolation(frozenset({"net", "pid", "mount"}))


async def test_a_probe_finds_a_set_that_the_bootstrap_can_have():
    found = await probe(PYTHON)
    assert found.namespaces <= {"net", "pid", "mount", "user"}
    assert "pid" not in found.namespaces or "mount" in found.namespaces


async def test_an_interpreter_that_cannot_run_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError) as caught:
        await probe(str(tmp_path / "python"))
    assert caught.value.code == "engine-python"


def test_what_is_required_and_missing_is_named():
    with pytest.raises(ConfigError, match="mount, pid") as caught:
        decide(Isolation(frozenset({"net"})), wanted="required")
    assert caught.value.code == "engine-isolation"


def test_required_isolation_that_is_granted_is_used():
    assert decide(ALL, wanted="required") is ALL


def test_best_effort_takes_what_there_is():
    assert decide(NONE, wanted="best-effort") is NONE
    assert NONE.missing == ("mount", "net", "pid")


def test_the_doctor_is_told_what_is_missing():
    assert finding(ALL).enforced
    assert not finding(NONE).enforced
    assert finding(NONE).required_in_production
    assert "mount, net, pid" in finding(NONE).detail
