"""Hand vLLM its own Qwen3 class on a CPU, so that it starts no process just to look at it."""

from __future__ import annotations


def register_models() -> None:
    """Register `Qwen3ForCausalLM` as a class instead of a name.

    vLLM inspects a model class that it knows by name in a process of its own, to keep CUDA out of
    the API server; that process imports everything again, for a quarter of a start on two cores. A
    CPU build has no CUDA to keep out.
    """
    from vllm.platforms import current_platform  # noqa: PLC0415 - seconds, once logs are quiet

    if not current_platform.is_cpu():
        return
    from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM  # noqa: PLC0415
    from vllm.model_executor.models.registry import ModelRegistry  # noqa: PLC0415

    ModelRegistry.register_model("Qwen3ForCausalLM", Qwen3ForCausalLM)
