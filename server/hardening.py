"""Harden the gateway's process, and say which protections of this machine hold and which do not."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import re
import resource
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attestation.errors import ConfigError
from server.logs import configure, is_closed

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 3, 4, 38, 39
_SAFE_PATTERNS = re.compile(r"[^|].*|\|/bin/false( .*)?|", re.DOTALL)

KEPT_VARIABLES = frozenset({"LANG", "LC_ALL", "LC_CTYPE", "TZ"})
"""What the gateway keeps of its environment. `PATH` is set, everything else is removed."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

CAPTURING = re.compile(
    r"SSLKEYLOGFILE"  # TLS secrets to a file; OpenSSL and Python both honour it
    r"|OTEL_.*CAPTURE.*|OTEL_INSTRUMENTATION_GENAI_.*|OTEL_PYTHON_.*|OTEL_EXPORTER_.*"
    r"|OTEL_(TRACES|METRICS|LOGS)_EXPORTER|OTEL_(EXPERIMENTAL_)?CONFIG_FILE"
    r"|OTEL_RESOURCE_ATTRIBUTES|TRACELOOP_.*|LANGFUSE_.*|LANGSMITH_.*"
    r"|LANGCHAIN_TRACING.*|OPENAI_LOG|HTTPX2?_LOG_LEVEL"
    r"|VLLM_DEBUG_.*|VLLM_SERVER_DEV_MODE|VLLM_TRACE_FUNCTION|VLLM_LOGGING_.*"
    r"|VLLM_ENABLE_RESPONSES_API_STORE|TORCH_LOGS|TORCH_COMPILE_DEBUG|CUDA_COREDUMP_FILE"
    r"|PYTHONASYNCIODEBUG|PYTHONFAULTHANDLER|PYTHONINSPECT|PYTHONSTARTUP|PYTHONTRACEMALLOC"
    r"|PYTHONBREAKPOINT|PYTHONDEVMODE|SENTRY_DSN|FAULTHANDLER.*"
)
"""Variables by which somebody asked to record what passes through; their presence is refused."""
_PRELOADING = re.compile(r"LD_(PRELOAD|AUDIT|LIBRARY_PATH)|PYTHON(PATH|HOME|USERBASE)|GCONV_PATH")

_MODES = ("dev_mode", "inspect", "interactive", "verbose")
"""Flags of the interpreter with which it prints what it works on, or stops to be asked."""

Profile = Literal["production", "simulated"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One protection: whether it holds here, and whether production serves without it."""

    id: str
    enforced: bool
    detail: str
    """What was found, in sizes and names of the system."""
    required_in_production: bool


def harden(*, profile: Profile) -> tuple[Finding, ...]:
    """Harden this process once, before anything secret is in it, and return what holds.

    What holds is asked of kernel and interpreter afterwards, not remembered.

    Raises `ConfigError` when the environment asks to record content, or, under profile
    production, when a required protection does not hold.
    """
    configure(sys.stderr)
    faulthandler.disable()  # its dumps name no values, but nothing else may write to stderr
    found = environment_findings(os.environ)  # noqa: TID251 - read to be refused, then emptied
    empty_environment(os.environ)  # noqa: TID251
    os.umask(0o077)
    limit_core_dumps()
    findings = (
        *found,
        emptied_finding(os.environ),  # noqa: TID251
        *process_findings(),
        *interpreter_findings(),
        *machine_findings(Path("/proc"), Path("/sys")),
    )
    if profile == "production":
        require(findings)
    return findings


def require(findings: tuple[Finding, ...]) -> None:
    """Raise `ConfigError` naming every protection that production needs and that does not hold."""
    missing = [item for item in findings if item.required_in_production and not item.enforced]
    if missing:
        words = "; ".join(f"{item.id}: {item.detail}" for item in missing)
        raise ConfigError("not-hardened", words)


def environment_findings(environment: Mapping[str, str]) -> tuple[Finding, ...]:
    """Say what the host asked for in the environment; refuse variables that record content."""
    capturing = sorted(name for name in environment if CAPTURING.fullmatch(name))
    if capturing:
        raise ConfigError("environment-captures", f"set here: {', '.join(capturing)}")
    loaded = sorted(name for name in environment if _PRELOADING.fullmatch(name))
    return (
        required(
            "no-preloaded-code",
            not loaded,
            f"set here: {', '.join(loaded)}" if loaded else "the environment loads no code",
        ),
    )


def empty_environment(environment: MutableMapping[str, str]) -> None:
    """Leave nothing in `environment` that a library could take for configuration."""
    for name in set(environment) - KEPT_VARIABLES:
        del environment[name]
    environment["PATH"] = _PATH


def limit_core_dumps() -> None:
    """Allow no core dump and no reading of this memory by processes of the same user.

    A limit of 1 byte, unlike 0, also stops dumps into a pipe (core(5)). Afterwards `/proc/self`
    belongs to root, so whoever is not root cannot open its own `environ` or list its own `fd`.
    Programs that are started from here become dumpable again when they are executed.
    """
    most = 1 if resource.getrlimit(resource.RLIMIT_CORE)[1] else 0  # a hard 0 cannot be raised
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))
    for option, value in ((_PR_SET_DUMPABLE, 0), (_PR_SET_NO_NEW_PRIVS, 1)):
        if _prctl(option, value) != 0:
            raise ConfigError("not-hardened", f"prctl {option} is not allowed here")


def emptied_finding(environment: Mapping[str, str]) -> Finding:
    """Say whether anything is left in `environment` that a library could read."""
    left = environment.keys() - KEPT_VARIABLES - {"PATH"}
    return required(
        "environment-emptied",
        not left,
        f"{len(left)} variables of the host are left" if left else "only language and time zone",
    )


def process_findings() -> tuple[Finding, ...]:
    """Say what holds in this process, asked of the kernel and not remembered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    dumpable, fixed = _prctl(_PR_GET_DUMPABLE, 0), _prctl(_PR_GET_NO_NEW_PRIVS, 0)
    umask = _status_field("Umask")
    return (
        required(
            "no-core-dumps",
            0 <= soft <= 1 and 0 <= hard <= 1,
            f"core limit {soft}/{hard} bytes",
        ),
        required(
            "not-dumpable",
            dumpable == 0,
            f"dumpable {dumpable}: memory, environment and files of this process are root's alone"
            if dumpable == 0
            else f"dumpable {dumpable}: processes of this user can read its memory",
        ),
        required("no-new-privileges", fixed == 1, f"no_new_privs {fixed}"),
        required("files-private", int(umask, 8) == 0o077, f"umask {umask}"),
    )


def interpreter_findings() -> tuple[Finding, ...]:
    """Say what this interpreter would print, and in which mode it runs."""
    dumps, closed = faulthandler.is_enabled(), is_closed()
    odd = sorted(name for name in _MODES if getattr(sys.flags, name))
    return (
        required(
            "no-fault-reports",
            not dumps,
            "faulthandler prints to a log" if dumps else "faulthandler is off",
        ),
        required(
            "closed-reports",
            closed,
            "log lines and unhandled exceptions name codes and places, never values"
            if closed
            else "log lines or exceptions would be printed with their values",
        ),
        required(
            "no-debug-mode",
            not odd,
            f"python runs with {', '.join(odd)}" if odd else "python runs without debug modes",
        ),
    )


def machine_findings(proc: Path, system: Path) -> tuple[Finding, ...]:
    """Say what the machine does with memory, from its `/proc` and `/sys`."""
    swaps = (proc / "swaps").read_text().splitlines()[1:]
    pattern = (proc / "sys/kernel/core_pattern").read_text().strip()
    collected = not _SAFE_PATTERNS.fullmatch(pattern)
    crash = _word(system / "kernel/kexec_crash_loaded", absent="0")
    resume = _word(system / "power/resume", absent="0:0")
    return (
        required(
            "no-swap",
            not swaps,
            f"{len(swaps)} swap areas are on; prompts could reach a disk" if swaps else "no swap",
        ),
        required(
            "no-core-collector",
            not collected,
            "core dumps of all processes are piped to a program"
            if collected
            else "no program collects core dumps",
        ),
        required(
            "no-crash-kernel",
            crash == "0",
            "no crash kernel is loaded"
            if crash == "0"
            else "a crash kernel is loaded (kdump); it would write all memory to a disk",
        ),
        required(
            "no-hibernation",
            resume == "0:0",
            "no device to hibernate to"
            if resume == "0:0"
            else f"hibernation would write all memory to device {resume}",
        ),
        _ptrace_finding(proc),
    )


def _ptrace_finding(proc: Path) -> Finding:
    scope = proc / "sys/kernel/yama/ptrace_scope"
    level = int(scope.read_text()) if scope.exists() else 0
    return Finding(
        "ptrace-restricted",
        level >= 1,
        f"kernel.yama.ptrace_scope {level}",
        required_in_production=False,
    )


def required(name: str, enforced: bool, detail: str) -> Finding:  # noqa: FBT001
    """Return a finding that production needs."""
    return Finding(name, enforced, detail, required_in_production=True)


def _word(path: Path, *, absent: str) -> str:
    """Read one word; a kernel without the file cannot do what it is about."""
    return path.read_text().strip() if path.exists() else absent


def _status_field(name: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def _prctl(option: int, argument: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    return int(libc.prctl(option, ctypes.c_ulong(argument), zero, zero, zero))
