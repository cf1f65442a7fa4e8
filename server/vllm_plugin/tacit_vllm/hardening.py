"""Keep this process's memory out of core dumps, debuggers and vLLM's own crash report."""

from __future__ import annotations

import ctypes
import os
import resource

_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4


def forbid_dumps() -> None:
    """Forbid core files, and the memory of this process to others of its user (prctl(2))."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) or libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "PR_SET_DUMPABLE")


def silence_crash_report() -> None:
    """Replace the report vLLM logs when its engine fails: it prints parts of other requests.

    The public wrapper looks the private name up when it is called. A vLLM that has moved it is
    refused, for its report would come back unseen.
    """
    from vllm.logging_utils import dump_input  # noqa: PLC0415 - vLLM, only inside its processes

    if not callable(getattr(dump_input, "_dump_engine_exception", None)):
        raise RuntimeError("this vLLM reports crashes in a way the plug-in does not know")
    dump_input._dump_engine_exception = _nothing  # noqa: SLF001 - there is no public switch


def _nothing(*_: object) -> None:
    """Report nothing."""
