"""Hardening: what is refused, what is emptied, what the kernel then says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attestation.errors import ConfigError
from server.hardening import (
    Finding,
    empty_environment,
    environment_findings,
    machine_findings,
    require,
)

ROOT = Path(__file__).parents[2]


def run(code, environment=None, options=()):
    """Run `code` in a process of its own; hardening cannot be undone."""
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **(environment or {})},
        capture_output=True,
        check=False,
        timeout=60,
    )


def proc(path, *, swaps="", pattern="core", scope=None):
    (path / "sys/kernel/yama").mkdir(parents=True)
    (path / "swaps").write_text("Filename\tType\tSize\tUsed\tPriority\n" + swaps)
    (path / "sys/kernel/core_pattern").write_text(pattern + "\n")
    if scope is not None:
        (path / "sys/kernel/yama/ptrace_scope").write_text(f"{scope}\n")
    return path


def machine(path, **found):
    return machine_findings(proc(path, **found), path / "nothing")


def found(findings):
    return {item.id: item.enforced for item in findings}


@pytest.mark.parametrize(
    "name",
    [
        "SSLKEYLOGFILE",
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST",
        "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_CONFIG_FILE",
        "VLLM_LOGGING_LEVEL",
        "VLLM_DEBUG_LOG_API_SERVER_RESPONSE",
        "OPENAI_LOG",
        "PYTHONASYNCIODEBUG",
        "CUDA_COREDUMP_FILE",
    ],
)
def test_a_variable_that_records_content_is_refused_by_name_without_its_value(name):
    with pytest.raises(ConfigError, match=name) as caught:
        environment_findings({name: "CANARY", "PATH": "/bin"})
    assert caught.value.code == "environment-captures"
    assert "CANARY" not in str(caught.value)


def test_an_ordinary_environment_is_accepted():
    assert found(environment_findings({"PATH": "/bin", "HOME": "/root", "TZ": "UTC"})) == {
        "no-preloaded-code": True
    }


def test_code_preloaded_by_the_environment_is_found():
    findings = environment_findings({"LD_PRELOAD": "/tmp/x.so"})
    with pytest.raises(ConfigError, match="no-preloaded-code"):
        require(findings)


def test_the_environment_is_emptied_to_its_language_and_a_fixed_path():
    environment = {"PATH": "/tmp/evil", "LANG": "C.UTF-8", "AWS_SECRET": "CANARY", "HOME": "/root"}
    empty_environment(environment)
    assert environment.keys() == {"PATH", "LANG"}
    assert "/tmp" not in environment["PATH"]


def test_a_machine_without_swap_or_collector_is_fine(tmp_path):
    findings = machine(tmp_path, scope=1)
    assert found(findings) == {
        "no-swap": True,
        "no-core-collector": True,
        "no-crash-kernel": True,
        "no-hibernation": True,
        "ptrace-restricted": True,
    }
    require(findings)


def test_swap_is_refused_in_production(tmp_path):
    swaps = "/dev/zram0\tpartition\t8388604\t0\t100\n"
    with pytest.raises(ConfigError, match=r"no-swap: 1 swap areas"):
        require(machine(tmp_path, swaps=swaps))


@pytest.mark.parametrize("pattern", ["|/usr/share/apport/apport %p", "|/lib/systemd/coredump %P"])
def test_a_core_collector_is_refused_in_production(tmp_path, pattern):
    with pytest.raises(ConfigError, match="no-core-collector"):
        require(machine(tmp_path, pattern=pattern))


@pytest.mark.parametrize("pattern", ["core", "|/bin/false", ""])
def test_a_core_pattern_that_pipes_nowhere_is_fine(tmp_path, pattern):
    require(machine(tmp_path, pattern=pattern))


@pytest.mark.parametrize(
    ("file", "word", "name"),
    [
        ("kernel/kexec_crash_loaded", "1", "no-crash-kernel"),
        ("power/resume", "259:3", "no-hibernation"),
    ],
)
def test_a_kernel_that_would_write_all_memory_to_a_disk_is_refused(tmp_path, file, word, name):
    system = tmp_path / "system"
    (system / file).parent.mkdir(parents=True)
    (system / file).write_text(f"{word}\n")
    with pytest.raises(ConfigError, match=name):
        require(machine_findings(proc(tmp_path), system))
    (system / file).write_text("0:0\n" if name == "no-hibernation" else "0\n")
    require(machine_findings(proc(tmp_path / "again"), system))


@pytest.mark.parametrize(
    ("before", "options", "name"),
    [
        ("import faulthandler; faulthandler.enable()", [], "no-fault-reports"),
        ("import sys; sys.excepthook = sys.__excepthook__", [], "closed-reports"),
        (
            "import logging; logging.getLogger().handlers[0].setFormatter(None)",
            [],
            "closed-reports",
        ),
        ("import os; os.umask(0o022)", [], "files-private"),
        ("import os; os.environ['HF_TOKEN'] = 'x'", [], "environment-emptied"),
        ("import ctypes; ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)", [], "not-dumpable"),
        ("pass", ["-X", "dev"], "no-debug-mode"),
    ],
)
def test_what_is_undone_afterwards_is_noticed(before, options, name):
    code = f"""
import os
from server import hardening
hardening.harden(profile="simulated")
{before}
findings = (
    hardening.emptied_finding(os.environ),
    *hardening.process_findings(),
    *hardening.interpreter_findings(),
)
print(*[item.id for item in findings if not item.enforced])
assert all(item.required_in_production for item in findings)
"""
    assert run(code, options=options).stdout.decode().split() == [name]


def test_what_production_does_not_require_is_not_refused():
    require((Finding("ptrace-restricted", False, "scope 0", required_in_production=False),))


def test_a_hardened_process_can_neither_dump_nor_be_configured():
    code = """
import json, os, pathlib
from server.hardening import harden
findings = harden(profile="simulated")
status = pathlib.Path("/proc/self/status").read_text()
limits = pathlib.Path("/proc/self/limits").read_text()
print(json.dumps({
    "enforced": {f.id: f.enforced for f in findings},
    "environment": sorted(os.environ),
    "umask": os.umask(0),
    "core": [line.split()[4:6] for line in limits.splitlines() if "core file" in line][0],
    "nnp": "NoNewPrivs:\\t1" in status,
    "owner": os.stat("/proc/self/environ").st_uid,
}))
"""
    result = run(code, {"SECRET": "CANARY", "LANG": "C.UTF-8"})
    seen = json.loads(result.stdout)
    required = {
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
    assert required <= {name for name, enforced in seen["enforced"].items() if enforced}
    assert seen["environment"] == ["LANG", "PATH"]
    assert seen["umask"] == 0o077
    assert seen["core"] == ["1", "1"]
    assert seen["nnp"]
    assert seen["owner"] == 0


def test_a_hard_limit_of_nothing_is_left_as_it_is():
    code = """
import resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from server.hardening import limit_core_dumps, process_findings
limit_core_dumps()
print(resource.getrlimit(resource.RLIMIT_CORE), process_findings()[0].enforced)
"""
    assert run(code).stdout.split() == [b"(0,", b"0)", b"True"]


def test_a_crash_of_a_hardened_process_leaves_no_core_file(tmp_path):
    code = f"""
import os, signal
from server.hardening import harden
harden(profile="simulated")
os.chdir({str(tmp_path)!r})
os.kill(os.getpid(), signal.SIGSEGV)
"""
    result = run(code)
    assert result.returncode == -11
    assert list(tmp_path.iterdir()) == []


def test_unhandled_exceptions_and_warnings_are_reported_without_their_words():
    code = """
import asyncio, logging, threading, warnings
from server.hardening import harden
from server.logs import quiet_loop
harden(profile="simulated")

class Drop:
    def __del__(self):
        raise ValueError("CANARY unraisable")

async def main():
    quiet_loop(asyncio.get_running_loop())
    async def fail():
        raise KeyError("CANARY task")
    asyncio.ensure_future(fail())
    await asyncio.sleep(0.05)
    import gc; gc.collect()
    await asyncio.sleep(0.05)

def in_thread():
    raise OSError("CANARY thread")

warnings.warn("CANARY warning")
logging.getLogger("uvicorn.error").error("CANARY %s", "CANARY")
logging.getLogger("tacit.api").info("CANARY message")
try:
    raise TypeError("CANARY handled")
except TypeError:
    logging.getLogger("tacit.api").exception("bug", extra={"request": "r-1", "body": "CANARY"})
logging.getLogger("tacit.api").info("bad %d", "CANARY")
Drop()
worker = threading.Thread(target=in_thread); worker.start(); worker.join()
asyncio.run(main())
raise RuntimeError("CANARY main")
"""
    result = run(code)
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert result.returncode == 1
    assert b"CANARY" not in result.stderr + result.stdout
    errors = [line["error"] for line in lines if "error" in line]
    assert errors == [
        "UserWarning",
        "TypeError",
        "ValueError",
        "OSError",
        "KeyError",
        "RuntimeError",
    ]
    assert [line["request"] for line in lines if "request" in line] == ["r-1"]
    assert all(line["place"].startswith("<string>:") for line in lines if "error" in line)
