"""Values, their schema and the README say the same, and the commands in the README exist."""

import itertools
import json
import re
import subprocess
import sys

import pytest
import yaml

from tests.helm.helm_kit import CHART, ROOT

README = (CHART / "README.md").read_text()
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def _resolved(schema):
    if "$ref" in schema:
        return SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    return schema


def _paths(schema, prefix=""):
    for name, part in _resolved(schema).get("properties", {}).items():
        yield f"{prefix}{name}"
        yield from _paths(part, f"{prefix}{name}.")


def _leaves(values, prefix=""):
    for name, value in values.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")


def test_the_table_of_values_is_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "chart-values", "--check"], check=False
    )
    assert done.returncode == 0, "run scripts/chart-values"


def test_every_value_is_in_the_schema_and_every_property_has_a_default():
    known = set(_paths(SCHEMA))
    assert set(_leaves(VALUES)) - known == set()
    assert known - set(_leaves(VALUES)) == {"enabled"}  # what a parent chart may set


def test_every_object_that_we_own_is_closed():
    def open_ones(schema, path):
        schema = _resolved(schema)
        if "properties" in schema and schema.get("additionalProperties") is not False:
            yield path
        for name, part in schema.get("properties", {}).items():
            yield from open_ones(part, f"{path}.{name}")
        if isinstance(schema.get("items"), dict):
            yield from open_ones(schema["items"], f"{path}[]")

    assert set(open_ones(SCHEMA, "")) == {".global"}  # shared with charts beside us


def test_every_example_is_explained():
    named = set(re.findall(r"scenarios/([a-z]+)\.yaml", README))
    assert named == {path.stem for path in (CHART / "scenarios").glob("*.yaml")}


COMMANDS = sorted(set(re.findall(r"`(?:\[)?(tacit [a-z][^`]+)`", README)))


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_exists_with_its_options(line, capsys):
    from server.cli import main

    words = re.findall(r"[^ \[\]]+", line)[1:]
    acts = list(itertools.takewhile(re.compile(r"[a-z][a-z-]*").fullmatch, words))
    with pytest.raises(SystemExit) as end:
        main([*acts, "--help"])
    assert end.value.code == 0
    offered = capsys.readouterr().out
    options = {word for word in words if word.startswith("--")}
    assert {option for option in options if not re.search(rf"{option}\b", offered)} == set()


def test_the_readme_has_commands():
    assert len(COMMANDS) > 12


def test_every_script_and_file_that_the_readme_names_exists():
    named = set(re.findall(r"scripts/[a-z-]+", README))
    assert {name for name in named if not (ROOT / name).is_file()} == set()
    linked = set(re.findall(r"\]\((?!http)([^)#]+)", README))
    assert {path for path in linked if not (CHART / path).exists()} == set()


def test_no_file_of_the_chart_is_too_long_to_read():
    for path in CHART.rglob("*"):
        if path.is_file():
            made = r"<!-- (?:values|plan):.*?<!-- end of \w+ -->"  # tables that a script writes
            text = re.sub(made, "", path.read_text(), flags=re.DOTALL)
            assert len(text.splitlines()) < 400, path
