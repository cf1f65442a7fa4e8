"""Before an update: what a policy lacks of the new configuration is said, and nothing else."""

import json
import re

import pytest
import yaml

from scripts.chain.installation import MODEL
from server.cli import main


@pytest.fixture
def world(installed, tmp_path):
    fork = installed.fork(tmp_path / "fork")
    yield fork
    fork.remove()


def measure(world, *words):
    policy = ["--policy", str(world.installation.policy)]
    return main(["measure", str(world.installation.config), *policy, *map(str, words)])


def change(world, path, value):
    """Change a line of the configuration; its policy stays as it was."""
    document = yaml.safe_load(world.installation.config.read_text())
    *parents, last = path.split(".")
    place = document
    for name in parents:
        place = place[name]
    place[last] = value
    world.installation.config.write_text(yaml.safe_dump(document, sort_keys=False))


def test_a_policy_that_names_everything_approves(world, capsys):
    assert measure(world) == 0
    assert capsys.readouterr().out.endswith("the policy approves this guest\n")


def test_a_changed_configuration_is_what_is_missing(world, capsys):
    change(world, "limits.drain_seconds", 31)
    assert measure(world, "--json") == 5
    told = json.loads(capsys.readouterr().out)
    (missing,) = told["missing"]
    assert missing["where"] == "runtime.config"
    assert missing["value"] == told["config"]
    assert missing["accepted"] != [told["config"]]


def test_adding_what_was_said_is_enough(world, capsys):
    change(world, "limits.drain_seconds", 31)
    assert measure(world) == 5
    lacks = re.search(r"policy lacks runtime.config: (\S+)", capsys.readouterr().out)
    world.edit_policy(r'config: \["', f'config: ["{lacks[1]}", "')
    assert measure(world) == 0


def test_a_statement_that_the_policy_does_not_accept_is_missing(world, capsys):
    world.edit_policy("operators: any", 'operators: ["Somebody Else"]')
    world.edit_policy("audit_fields: any", "audit_fields: [request]")
    world.edit_policy("filters: none", "filters: [cards, names]")
    assert measure(world) == 5
    told = capsys.readouterr().out
    assert "policy lacks keyset.operators: local development" in told
    assert "policy lacks keyset.audit_fields: " in told
    assert "policy lacks keyset.audit_fields: request\n" not in told
    assert "policy lacks keyset.filters: none" in told


def test_another_model_is_missing(world, capsys):
    world.edit_policy(f'"{MODEL}": ', '"other": ')
    assert measure(world) == 5
    assert f"policy lacks runtime.models.{MODEL}: sha256:" in capsys.readouterr().out


def test_a_package_may_lie_elsewhere_than_in_the_guest(world, capsys):
    place = world.installation.sealed
    change(world, f"models.{MODEL}.sealed", "/srv/tacit/models/nowhere")
    assert measure(world) != 5
    assert measure(world, "--package", f"{MODEL}={place}") == 5  # the configuration did change
    assert "runtime.models" not in capsys.readouterr().out


@pytest.mark.parametrize("word", ["other=/tmp", MODEL, f"{MODEL}=", "=/tmp"])
def test_a_package_of_no_model_is_refused(world, word, capsys):
    assert measure(world, "--package", word) == 2
    assert "package-place" in capsys.readouterr().err


def test_an_unsigned_policy_is_not_taken_for_a_signed_one(world, tmp_path, capsys):
    key = tmp_path / "signer.pem"
    assert main(["keygen", str(key)]) == 0
    signed = tmp_path / "policy.dsse.json"
    words = ["--key", key, "--number", 1, "--out", signed]
    policy = world.installation.policy
    assert main(["policy", "sign", str(policy), *map(str, words)]) == 0
    public = key.with_suffix(".pub")
    words = ["measure", str(world.installation.config), "--policy-signer", str(public)]
    assert main([*words, "--policy", str(signed)]) == 0
    assert main([*words, "--policy", str(policy)]) == 2
    assert "policy-unsigned" in capsys.readouterr().err
