"""The images hold what the chart starts, exactly what the locks say, and nothing that moves."""

import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.helm.helm_kit import CHART, ROOT, TOOLS, scenario

SCRIPT = ROOT / "scripts" / "images"
FILES = sorted((ROOT / "helm" / "images").glob("*.Containerfile"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
BASE = f"registry.example/debian@sha256:{'0' * 64}"
ARCHIVE = "http://snapshot.debian.org/archive/debian/20261101T000000Z"

# What each image's program is started with, as Python would import it.
PROGRAMS = {
    "image-cli": "import attestation.cli, attestation.client, attestation.commands.verify",
    "image-broker": "import attestation.broker.app, attestation.broker.adminserver, psycopg,"
    " pkcs11",
    "image-server": "import server.boot, server.app, server.listener, uvloop, pynvml,"
    " attestation.simulator",
}


def _module():
    loader = importlib.machinery.SourceFileLoader("images", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("images", loader))
    loader.exec_module(module)
    return module


def _locked(name):
    text = (ROOT / f"requirements/{name}.lock").read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.replace("\\\n", ""))
    pairs = (entry.split("==", 1) for entry in entries if not entry.startswith("#"))
    return {
        package: (rest.split()[0], set(re.findall(r"sha256:\w+", rest))) for package, rest in pairs
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_hadolint_has_nothing_to_say(path):
    hadolint = TOOLS / "hadolint" / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is not installed (scripts/test-tools)")
    done = subprocess.run(
        [hadolint, "--no-color", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_is_assumed_and_nothing_is_fetched_unpinned(path):
    text = path.read_text()
    assert not re.search(r"^ARG \w+=", text, re.MULTILINE)
    froms = re.findall(r"^FROM (\S+)(?: AS (\w+))?", text, re.MULTILINE)
    stages = {stage for _, stage in froms}
    assert {source for source, _ in froms} <= {"${BASE}", "scratch", *stages}
    for command in re.findall(r"pip .*? install (.*)", text.replace("\\\n", "")):
        assert "--no-index" in command
        assert "--no-deps" in command
    locked = [c for c in text.replace("\\\n", "").split("&&") if "--requirement" in c]
    assert locked
    assert all("--require-hashes" in command for command in locked)
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["10001:10001"]


def test_the_chart_starts_what_the_images_hold():
    text = "".join(path.read_text() for path in FILES)
    (program,) = {
        tuple(json.loads(w)) for w in re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    }
    for part in ("server", "broker", "verification"):
        assert tuple(VALUES[part]["command"]) == program
    assert VALUES["podSecurity"]["runAsUser"] == 10001
    environment = program[0].removesuffix("/bin/tacit")
    assert f"venv --without-pip {environment} " in text
    for python in (VALUES["broker"]["python"], VALUES["tee"]["simulated"]["simulator"]):
        assert python == f"{environment}/bin/python"
    for name in ("simulated", "nodecvm", "kata"):
        for model in yaml.safe_load(scenario(name)["server"]["config"])["models"].values():
            engine = model["engine"]["python"].removesuffix("/bin/python")
            assert f"venv --without-pip {engine} " in text


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_image_s_lock_is_a_part_of_the_tested_one(name):
    tested = _locked("gateway")
    for package, (version, digests) in _locked(name).items():
        assert tested[package][0] == version, package
        assert digests, package
        assert digests <= tested[package][1], package


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_image_s_program_imports_nothing_that_its_lock_lacks(name):
    allowed = sorted({package.replace("_", "-") for package in _locked(name)})
    program = f"""
import importlib.metadata as metadata, sys
allowed = set({allowed!r}) | {{"tacit-inference"}}
def known(names):
    return any(n.lower().replace("_", "-").replace(".", "-") in allowed for n in names)
absent = {{top for top, names in metadata.packages_distributions().items() if not known(names)}}
class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"{{name}} is not in the image", name=name)
sys.meta_path.insert(0, Absent)
{PROGRAMS[name]}
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cli", "--base", "debian:12", "--archive", ARCHIVE], "a tag can be moved"),
        (["cli", "--base", BASE, "--archive", "deb.debian.org"], "not an http or https address"),
        (["engine", "--base", BASE, "--archive", ARCHIVE], "invalid choice"),
        (["cli", "--base", BASE], "--archive"),
        (["cli", "--base", BASE, "--archive", ARCHIVE], "apt-get install buildah"),
    ],
)
def test_a_build_is_refused_where_it_would_not_be_what_was_asked(words, told, tmp_path):
    for tool in ("env", "git", "tar"):  # a machine without a builder
        (tmp_path / tool).symlink_to(shutil.which(tool))
    (tmp_path / "python3").symlink_to(sys.executable)
    done = subprocess.run(
        [SCRIPT, *words],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert not done.stdout


@pytest.mark.parametrize("builder", ["buildah", "podman", "docker"])
def test_every_argument_of_a_containerfile_is_given(builder):
    images = _module()
    common = {"BASE": BASE, "ARCHIVE": ARCHIVE, "VERSION": "1", "REVISION": "r", "EPOCH": "0"}
    for image, (container, own, lock, engine) in images.IMAGES.items():
        (build, *_) = images.build_commands(builder, image, common | own)
        given = {build[i + 1].partition("=")[0] for i, w in enumerate(build) if w == "--build-arg"}
        text = (ROOT / f"helm/images/{container}.Containerfile").read_text()
        assert set(re.findall(r"^ARG (\w+)$", text, re.MULTILINE)) == given - {"SOURCE_DATE_EPOCH"}
        assert all((ROOT / f"requirements/{name}.lock").exists() for name in (lock, engine) if name)


def test_a_package_without_a_digest_is_told_apart_from_the_others():
    hashed, bare = _module().split((ROOT / "requirements/engine-cpu.lock").read_text())
    assert [requirement.partition("==")[0] for requirement in bare] == ["torch"]
    assert "torch==" not in hashed
    assert hashed.count("==") == len(_locked("engine-cpu")) - 1


def test_the_bill_of_materials_names_every_wheel(tmp_path):
    for name in (
        "jiter-0.16.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        "torch-2.13.0+cpu-x-y-z.whl",
    ):
        (tmp_path / name).write_bytes(os.urandom(8))
    bill = _module().bill("cli", "0.1.0", tmp_path.glob("*.whl"))
    purls = [component["purl"] for component in bill["components"]]
    assert purls == ["pkg:pypi/jiter@0.16.0", "pkg:pypi/torch@2.13.0%2Bcpu"]
    digests = [component["hashes"][0]["content"] for component in bill["components"]]
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in digests)
