"""Engine bootstrap: a plan on stdin becomes an isolated, supervised process. Standard library only.

It runs under the engine's own Python, before anything of the engine is imported:

    gateway ── outer ── init ── engine ── workers …
               │        └ PID 1 of its namespace: sets up, starts, reaps, and takes all with it
               └ holds the namespaces; dies with the gateway, and then so does init

Without a PID namespace there is no outer; init is then a subreaper that kills its whole tree. In
both cases SIGTERM asks the engine to finish and SIGINT ends everything at once.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any, NoReturn

NOT_ISOLATED = 97
"""Exit status when a namespace or mount of the plan cannot be had; nothing was started."""

_CLONE = {"mount": 0x0002_0000, "user": 0x1000_0000, "pid": 0x2000_0000, "net": 0x4000_0000}
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x4_0000
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER = 1, 24, 36
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_CAPABILITY_VERSION_3 = 0x2008_0522
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_WATCHED = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    """Read the plan, isolate, start the engine, and end with its exit status."""
    plan = json.load(sys.stdin.buffer)
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)  # taken with sigwait, never lost
    os.setsid()  # a terminal's Ctrl-C is for the gateway, which drains first
    namespaces = frozenset(plan["namespaces"])
    contained = "pid" in namespaces
    _die_with(plan["parent"], signal.SIGKILL if contained else signal.SIGTERM)
    try:
        _unshare(namespaces)
        if contained:
            _hold_namespace()
        _prepare(plan, namespaces)
    except OSError as error:
        _say(error.__traceback__)
        os._exit(NOT_ISOLATED)
    _supervise(plan, parent=0 if contained else plan["parent"])


def _die_with(parent: int, number: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it was gone before the kernel knew whom to tell
        os._exit(0)


def _unshare(namespaces: frozenset[str]) -> None:
    uid, gid = os.getuid(), os.getgid()
    _check(_libc.unshare(sum(_CLONE[name] for name in namespaces)))
    if "user" in namespaces:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def _hold_namespace() -> None:
    """Fork PID 1 of the new namespace, which returns; forward signals to it and end as it ends."""
    held, holding = os.pipe()
    init = os.fork()
    if init == 0:
        os.close(holding)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if select.select([held], [], [], 0)[0]:  # readable means closed: the outer is gone
            os._exit(0)
        return
    os.close(held)
    while True:
        number = signal.sigwait(_WATCHED)
        if number != signal.SIGCHLD:
            os.kill(init, number)
            continue
        pid, status = os.waitpid(init, os.WNOHANG)
        if pid == init:
            os._exit(_exit_status(status))


def _prepare(plan: dict[str, Any], namespaces: frozenset[str]) -> None:
    if "mount" in namespaces:
        _mount_private(plan, proc="pid" in namespaces)
    if "net" in namespaces:
        _raise_loopback()
    os.umask(0o077)
    # Files need a page at least and pipes ignore 0: 1 is the limit that stops both (core(5)).
    # Whoever started us with a hard limit of 0 left nothing that could be raised.
    most = 1 if resource.getrlimit(resource.RLIMIT_CORE)[1] else 0
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _drop_capabilities()


def _mount_private(plan: dict[str, Any], *, proc: bool) -> None:
    _mount(None, "/", flags=_MS_REC | _MS_PRIVATE)
    kept = [(path, os.open(path, os.O_PATH)) for path in plan["kept"]]
    for path in plan["hidden"]:
        if Path(path).is_dir():
            flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
            _mount("tmpfs", path, kind="tmpfs", flags=flags, data="mode=0500,size=4k")
        elif Path(path).exists():
            _mount("/dev/null", path, flags=_MS_BIND)
    for path in plan["covered"]:
        if Path(path).is_dir():
            flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
            _mount("tmpfs", path, kind="tmpfs", flags=flags, data="mode=0700")
    for path, descriptor in kept:
        if not Path(path).exists():  # a private mount above lies over it: bring it back
            Path(path).mkdir(parents=True, mode=0o700)
            _mount(f"/proc/self/fd/{descriptor}", path, flags=_MS_BIND | _MS_REC)
        os.close(descriptor)
    _mount("tmpfs", plan["scratch"], kind="tmpfs", flags=_MS_NOSUID | _MS_NODEV, data="mode=0700")
    if proc:
        _mount("proc", "/proc", kind="proc", flags=_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        _, flags = struct.unpack("16sH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def _drop_capabilities() -> None:
    """Keep root from being root: no mount, no setns, no ptrace, for the engine and its children."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    if os.geteuid() == 0:
        for capability in range(last + 1):
            _prctl(_PR_CAPBSET_DROP, capability)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, bytes(24)))


def _supervise(plan: dict[str, Any], *, parent: int) -> NoReturn:
    """Start the engine and end with it; `parent` is 0 where the kernel ends the namespace."""
    engine = os.fork()
    if engine == 0:
        _become(plan)
    while True:
        number = signal.sigwait(_WATCHED)
        if number == signal.SIGCHLD:
            status = _reaped(engine)
            if status is not None:
                _end_tree(status)
        elif number == signal.SIGINT or (parent and os.getppid() != parent):
            _end_tree(128 + signal.SIGKILL)
        else:
            os.kill(engine, signal.SIGTERM)


def _become(plan: dict[str, Any]) -> NoReturn:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # PR_SET_DUMPABLE would not survive the next line; the engine's plug-in sets it in each process
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    try:
        os.chdir(plan["scratch"])
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.execve(plan["argv"][0], plan["argv"], plan["environment"])  # noqa: S606
    except OSError as error:
        _say(error.__traceback__)
        os._exit(126)


def _reaped(engine: int) -> int | None:
    """Reap whatever has ended; return the engine's exit status if that was among it."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if pid == engine:
            return _exit_status(status)


def _end_tree(status: int) -> NoReturn:
    """Kill every descendant: orphans come to us, so the tree is gone when no child is left."""
    mine = Path(f"/proc/self/task/{os.getpid()}/children")
    try:
        while True:
            for child in mine.read_text().split():
                os.kill(int(child), signal.SIGKILL)
            os.waitpid(-1, 0)
    except ChildProcessError:
        os._exit(status)


def _exit_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _mount(
    source: str | None, target: str, *, kind: str | None = None, flags: int = 0, data: str = ""
) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind)]
    _check(_libc.mount(*encoded, ctypes.c_ulong(flags), data.encode()))


def _prctl(option: int, argument: int) -> None:
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(option, ctypes.c_ulong(argument), zero, zero, zero))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _say(traceback: Any) -> None:
    """Name the line that failed, in the form the supervisor passes on."""
    lines = []
    while traceback is not None:
        lines.append(traceback.tb_lineno)
        traceback = traceback.tb_next
    for line in lines:
        sys.stderr.write(f"ERROR 00-00 00:00:00 [enter.py:{line}]\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
