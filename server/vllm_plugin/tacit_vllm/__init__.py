"""The plug-in vLLM calls in each of its processes: harden, quiet the logs, register the loader."""

from __future__ import annotations

from tacit_vllm import hardening, quiet
from tacit_vllm.models import register_models


def register() -> None:
    """Prepare this process; vLLM calls it at start-up, sometimes more than once.

    What cannot be done is raised, and vLLM then does not start.
    """
    hardening.forbid_dumps()
    quiet.install()
    hardening.silence_crash_report()
    from tacit_vllm.loader import register_sealed  # noqa: PLC0415 - torch, once logs are quiet

    register_sealed()
    register_models()
