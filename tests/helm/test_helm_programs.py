"""The few lines of Python that the chart itself brings do what they are there for."""

import signal
import stat
import subprocess
import sys

from tests.helm import scenarios
from tests.helm.helm_kit import ROOT, pods


def _program(container, paths):
    """Return a container's inline program with its paths moved to where a test may write."""
    program = container["command"][-1]
    assert container["command"][1] == "-c"
    for path, place in paths.items():
        assert f'"{path}"' in program
        program = program.replace(f'"{path}"', f'"{place}"')
    return [sys.executable, "-c", program]


def _init_container(name, scenario="simulated"):
    specs = pods(list(scenarios.documents(scenario)))
    found = [c for spec in specs for c in spec.get("initContainers", ()) if c["name"] == name]
    assert len(found) == 1
    return found[0]


def _as_mounted(source, files):
    """Lay files out as the kubelet does: links into a directory of this version."""
    version = source / "..2026_11_25"
    version.mkdir(parents=True)
    (source / "..data").symlink_to(version.name)
    for name, data in files.items():
        (version / name).write_bytes(data)
        (source / name).symlink_to(f"..data/{name}")


def test_private_files_become_readable_by_their_owner_alone(tmp_path):
    source, target = tmp_path / "secret", tmp_path / "private"
    target.mkdir()
    _as_mounted(source, {"pgpass": b"db:5432:tacit:tacit:x\n", "kek": b"\0" * 32})
    paths = {"/etc/tacit/private": source, "/run/tacit/private": target}
    subprocess.run(_program(_init_container("private-files"), paths), check=True, timeout=60)
    assert {p.name: p.read_bytes() for p in target.iterdir()} == {
        "pgpass": b"db:5432:tacit:tacit:x\n",
        "kek": b"\0" * 32,
    }
    assert {stat.S_IMODE(p.stat().st_mode) for p in target.iterdir()} == {0o600}


def test_the_cache_of_a_pccs_begins_with_what_the_operator_gave(tmp_path):
    source, cache = tmp_path / "given", tmp_path / "cache"
    cache.mkdir()
    _as_mounted(source, {"nvidia.json": b"{}", "pccs-ca.pem": b"a certificate"})
    container = _init_container("collateral-cache", scenario="broker-pccs")
    paths = {"/etc/tacit/endorsements": source, "/var/cache/tacit": cache}
    subprocess.run(_program(container, paths), check=True, timeout=60)
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == {"nvidia.json": b"{}"}


def test_the_software_tdx_starts_from_a_mounted_secret(tmp_path):
    made, source, state = tmp_path / "made", tmp_path / "secret", tmp_path / "tdx"
    new = [sys.executable, "-m", "attestation.simulator", "new", made]
    subprocess.run(new, check=True, cwd=ROOT, capture_output=True, timeout=60)
    gpus = [sys.executable, "-m", "attestation.simulator", "gpus", made]
    subprocess.run(gpus, check=True, cwd=ROOT, capture_output=True, timeout=60)
    found = [path for path in made.rglob("*") if path.is_file()]
    files = {"-".join(path.relative_to(made).parts): path.read_bytes() for path in found}
    _as_mounted(source, files)
    container = _init_container("software-tdx")
    paths = {"/etc/tacit/mock-intel": source, "/run/tacit-tdx/tdx": state}
    command = _program(container, paths)
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, **quiet) as tdx:
        try:
            assert tdx.stdout.readline() == f"READY {state}\n".encode()
            probe = container["startupProbe"]["exec"]["command"][-1]
            probe = probe.replace("/run/tacit-tdx/tdx", str(state))
            subprocess.run([sys.executable, "-c", probe], check=True, timeout=60)
        finally:
            tdx.send_signal(signal.SIGTERM)
            tdx.wait(timeout=30)
    assert (state / "collateral.json").read_bytes() == files["collateral.json"]
    for path in found:
        assert (state / path.relative_to(made)).exists(), path.name
    assert stat.S_IMODE((state / "intel").stat().st_mode) == 0o700
