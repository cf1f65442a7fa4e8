"""What is carried to a site without a network is whole, or said not to be."""

import io
import json
import subprocess
import sys
import tarfile

import pytest

from tests.helm.helm_kit import ROOT, helm

SCRIPT = ROOT / "scripts" / "airgap"
DIGEST = f"sha256:{'ab' * 32}"


def airgap(*words, check=True):
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def image(place):
    """Write an OCI archive of one image, as buildah lays it out."""
    place.mkdir(parents=True, exist_ok=True)
    note = {"org.opencontainers.image.ref.name": "localhost/tacit-broker:0.1.0"}
    index = json.dumps({"manifests": [{"digest": DIGEST, "annotations": note}]}).encode()
    path = place / "broker.oci.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("index.json")
        info.size = len(index)
        tar.addfile(info, io.BytesIO(index))
    return path


def packages(place):
    """Lay out what `scripts/images --prepare` would."""
    made = place / "server-gpu"
    for name, text in {"locks/image.lock": "a==1\n", "wheels/a-1-py3-none-any.whl": "x"}.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    return made


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    helm("helm4")
    tmp_path = tmp_path_factory.mktemp("airgap")
    policy = tmp_path / "policy.dsse.json"
    policy.write_text("{}\n")
    out = tmp_path / "tacit.tar"
    words = ["--image", image(tmp_path), "--packages", packages(tmp_path), "--file", policy]
    airgap(out, *words)
    return out


def contents(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def rewritten(bundle, change):
    """Write the tar again with `change` applied to its files; its sums stay."""
    held = contents(bundle)
    change(held)
    out = bundle.with_name("other.tar")
    with tarfile.open(out, "w") as tar:
        for name, data in held.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out


def test_a_bundle_holds_what_an_installation_needs(bundle):
    held = contents(bundle)
    assert {
        "images/broker.oci.tar",
        "packages/server-gpu/locks/image.lock",
        "packages/server-gpu/wheels/a-1-py3-none-any.whl",
        "files/policy.dsse.json",
        "install/scripts/install-cvm",
        "install/configs/cvm/tacit.service",
        "SHA256SUMS",
    } <= held.keys()
    assert any(name.startswith("tacit-") and name.endswith(".tgz") for name in held)


def test_a_whole_bundle_says_what_to_push_by_which_digest(bundle):
    told = airgap("--check", bundle).stdout
    assert "oci-archive:images/broker.oci.tar docker://MIRROR/tacit-broker:0.1.0" in told
    assert DIGEST in told


def test_the_same_files_make_the_same_bundle(bundle, tmp_path):
    again = tmp_path / "again.tar"
    made = bundle.parent
    words = ["--image", made / "broker.oci.tar", "--packages", made / "server-gpu"]
    airgap(again, *words, "--file", made / "policy.dsse.json")
    assert again.read_bytes() == bundle.read_bytes()


def test_what_was_carried_can_be_installed(bundle, tmp_path):
    place, root = tmp_path / "site", tmp_path / "root"
    root.mkdir()
    with tarfile.open(bundle) as tar:
        tar.extractall(place, filter="data")
    script = place / "install" / "scripts" / "install-cvm"
    words = [script, "--root", root, "--files", "server"]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    assert (root / "etc/systemd/system/tacit.service").is_file()


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held.update({"files/policy.dsse.json": b"{ }\n"}),
        lambda held: held.pop("images/broker.oci.tar"),
        lambda held: held.update({"files/more": b"x"}),
        lambda held: held.pop("SHA256SUMS"),
        lambda held: held.update({"../outside": b"x"}),
    ],
    ids=["changed", "removed", "added", "no-sums", "escaping"],
)
def test_a_bundle_that_is_not_what_was_packed_is_refused(bundle, change):
    done = airgap("--check", rewritten(bundle, change), check=False)
    assert done.returncode == 2
    assert not done.stdout


def test_a_cut_bundle_is_refused(bundle):
    cut = bundle.with_name("cut.tar")
    cut.write_bytes(bundle.read_bytes()[:-20000])
    assert airgap("--check", cut, check=False).returncode == 2


@pytest.mark.parametrize("words", [[], ["a.tar", "--check", "b.tar"], ["a.tar", "--image", "none"]])
def test_a_bundle_of_nothing_or_of_what_is_not_there_is_not_made(words, tmp_path):
    helm("helm4")
    words = [tmp_path / word if word.endswith((".tar", "none")) else word for word in words]
    assert airgap(*words, check=False).returncode == 2
    assert not list(tmp_path.iterdir())
