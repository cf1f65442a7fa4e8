"""What checkov finds in the documented renders is exactly what `checkov.yaml` explains."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.helm.helm_kit import CHART, TOOLS, template

EXPLAINED = yaml.safe_load((Path(__file__).parent / "checkov.yaml").read_text())


def found(directory):
    """Return (check, scenario) of everything checkov would change."""
    checkov = TOOLS / "checkov" / "bin" / "checkov"
    if not checkov.exists():
        pytest.skip("checkov is not installed (scripts/test-tools --checkov)")
    words = ["--framework", "kubernetes", "--compact", "--quiet", "--skip-download", "-o", "json"]
    environment = {"PATH": os.defpath, "HOME": str(directory)}
    done = subprocess.run(
        [checkov, "-d", directory, *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    answer = json.loads(done.stdout)
    assert answer["summary"]["parsing_errors"] == 0
    assert answer["summary"]["passed"] > 300
    failed = answer["results"]["failed_checks"]
    return {(one["check_id"], Path(one["file_path"]).stem) for one in failed}


@pytest.mark.slow
def test_every_finding_is_explained_and_every_explanation_is_of_a_finding(tmp_path):
    for path in (CHART / "scenarios").glob("*.yaml"):
        done = template(yaml.safe_load(path.read_text()))
        assert done.returncode == 0, done.stderr
        (tmp_path / path.name).write_text(done.stdout)
    explained = {(check, name) for check, item in EXPLAINED.items() for name in item["where"]}
    assert found(tmp_path) == explained


def test_every_explanation_says_why_and_names_a_documented_example():
    known = {path.stem for path in (CHART / "scenarios").glob("*.yaml")}
    for check, item in EXPLAINED.items():
        assert item["why"].strip(), check
        assert set(item["where"]) <= known, check
