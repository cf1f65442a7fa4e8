"""A plain confidential VM gets hardened units, and nothing that was not asked for."""

import re
import shutil
import subprocess
import sys

import pytest

from attestation.broker import accepting, adminserver, app
from tests.helm.helm_kit import CHART, ROOT

SCRIPT = ROOT / "scripts" / "install-cvm"
UNITS = ("tacit.service", "tacit-broker.service")
COMMON = {
    "etc/sysctl.d/90-tacit.conf",
    "etc/systemd/journald.conf.d/90-tacit.conf",
    "etc/systemd/system/swap.target",
}
PLACED = {
    "server": COMMON | {"etc/systemd/system/tacit.service"},
    "broker": COMMON | {"etc/systemd/system/tacit-broker.service", "etc/sysusers.d/tacit.conf"},
}


def install(*words, check=True):
    done = subprocess.run(
        [SCRIPT, *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def files(root):
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() or p.is_symlink()}


def unit(name):
    """Return a unit's settings; systemd adds up the lists that are given twice."""
    found = {}
    for line in (ROOT / "configs" / "cvm" / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("role", PLACED)
def test_an_image_s_tree_gets_exactly_these_files(role, tmp_path):
    install("--root", tmp_path, "--files", role)
    assert files(tmp_path) == PLACED[role]
    assert (tmp_path / "etc/systemd/system/swap.target").readlink().as_posix() == "/dev/null"


@pytest.mark.parametrize("role", PLACED)
def test_a_second_run_changes_nothing(role, tmp_path):
    install("--root", tmp_path, "--files", role)
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert "nothing to change" in install("--root", tmp_path, "--files", role).stderr
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_was_tampered_with_is_put_back_and_what_is_the_operator_s_stays(tmp_path):
    install("--root", tmp_path, "--files", "server")
    placed = tmp_path / "etc/systemd/system/tacit.service"
    placed.write_text(placed.read_text().replace("NoNewPrivileges=yes", "NoNewPrivileges=no"))
    own = tmp_path / "etc/tacit/tacit.yaml"
    own.write_text("version: 1\n")
    told = install("--root", tmp_path, "--files", "server").stderr
    assert placed.read_bytes() == (ROOT / "configs/cvm/tacit.service").read_bytes()
    assert "file /etc/systemd/system/tacit.service" in told
    assert own.read_text() == "version: 1\n"


def test_a_dry_run_says_everything_and_does_nothing(tmp_path):
    told = install("--root", tmp_path, "--files", "server", "--dry-run").stderr
    assert not list(tmp_path.iterdir())
    for path in PLACED["server"]:
        assert f"/{path}" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "name PACKAGES"),
        (["--files", "engine"], "name PACKAGES"),
        (["--root", "/nowhere", "--files", "server"], "not a directory"),
        (["--force"], "unknown option"),
        (["/nowhere"], "no locks/image.lock"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, told):
    done = install(*words, check=False)
    assert done.returncode == 2
    assert told in done.stderr


@pytest.mark.parametrize("name", UNITS)
def test_systemd_reads_every_line_of_a_unit(name, tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not here")
    system = tmp_path / "etc/systemd/system"
    system.mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "cvm" / name, system)
    done = subprocess.run(
        ["systemd-analyze", "--man=no", f"--root={tmp_path}", "verify", name],
        capture_output=True,
        text=True,
        check=False,
    )
    about = [line for line in done.stderr.splitlines() if f"{name}:" in line]
    expected = r"is not executable|Unit sysinit.target not found"  # the tree holds nothing else
    assert [line for line in about if not re.search(expected, line)] == []


@pytest.mark.parametrize(("name", "most"), [("tacit.service", 40), ("tacit-broker.service", 16)])
def test_a_unit_s_exposure_is_bounded(name, most, tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not here")
    system = tmp_path / "etc/systemd/system"
    system.mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "cvm" / name, system)
    words = ["security", "--offline=yes", f"--root={tmp_path}", f"--threshold={most}", name]
    done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", UNITS)
def test_nothing_of_memory_reaches_a_disk(name):
    found = unit(name)
    assert found["LimitCORE"] == ["1"]
    assert found["MemorySwapMax"] == ["0"]
    assert found["ProtectSystem"] == ["strict"]
    assert found["NoNewPrivileges"] == ["yes"]
    assert found["UMask"] == ["0077"]


def test_the_broker_may_open_more_than_its_listeners_hold():
    held = 2 * accepting.MAX_HANDSHAKES + app.MAX_CONNECTIONS + adminserver.MAX_CONNECTIONS
    assert int(unit("tacit-broker.service")["LimitNOFILE"][0]) > 2 * held


def test_the_server_s_capabilities_are_those_of_the_chart_and_a_low_port():
    security = (CHART / "templates" / "_security.tpl").read_text()
    (added,) = re.findall(r"add: \[(.*)\]", security)
    chart = {f"CAP_{name.strip()}" for name in added.split(",")}
    granted = set(unit("tacit.service")["CapabilityBoundingSet"][0].split())
    assert granted == chart | {"CAP_NET_BIND_SERVICE"}


def test_the_engine_s_own_namespaces_stay_possible():
    from server.engine import isolation

    allowed = {"net": "net", "pid": "pid", "mnt": "mount"}
    given = {allowed[word] for word in unit("tacit.service")["RestrictNamespaces"][0].split()}
    assert given == set(isolation._WANTED[0])
    calls = " ".join(unit("tacit.service")["SystemCallFilter"])
    assert "@mount" in calls
    assert "unshare" in calls


def test_a_broker_works_where_memory_is_never_both_written_and_executed():
    # what MemoryDenyWriteExecute does, asked of the kernel itself (prctl PR_SET_MDWE, Linux 6.3)
    assert unit("tacit-broker.service")["MemoryDenyWriteExecute"] == ["yes"]
    program = """
import ctypes, sys
zero = ctypes.c_ulong(0)
if ctypes.CDLL(None).prctl(65, ctypes.c_ulong(1), zero, zero, zero) != 0:
    sys.exit(77)
import attestation.broker.app, attestation.broker.adminserver, psycopg, pkcs11, sqlite3, ssl
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
ec.generate_private_key(ec.SECP256R1()).sign(b"x", ec.ECDSA(hashes.SHA256()))
sqlite3.connect(":memory:").execute("select 1")
ssl.create_default_context()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip("the kernel has no PR_SET_MDWE")
    assert done.returncode == 0, done.stderr


def test_a_stop_waits_for_the_longest_drain():
    from server.engine.launch import SHUTDOWN_SECONDS
    from server.settings import LimitSettings

    bounds = LimitSettings.model_fields["drain_seconds"].metadata
    longest = next(bound.le for bound in bounds if hasattr(bound, "le"))
    assert int(unit("tacit.service")["TimeoutStopSec"][0]) > longest + 8 * SHUTDOWN_SECONDS
