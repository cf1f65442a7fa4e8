"""`tacit doctor --plan MODEL GPU`: what fits on such a node, and what the guest needs, in words."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from attestation.commands.files import read, show
from attestation.errors import ConfigError
from server import qwen3
from server.sizing import GIB, GPUS, Architecture, Gpu, Plan, plan


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Add the options of a plan to `doctor`."""
    group = parser.add_argument_group("sizing, without looking at this machine")
    group.add_argument(
        "--plan",
        nargs=2,
        metavar=("MODEL", "GPU"),
        help="say what of MODEL (Qwen3-8B, Qwen3-32B-FP8, a directory with config.json)"
        " fits on GPU (H100, H200, B200); exit 5 where nothing does",
    )
    group.add_argument(
        "--context", type=_positive, metavar="N", help="tokens of a conversation [the model's own]"
    )
    group.add_argument(
        "--sequences", type=_positive, default=1, metavar="N", help="conversations at once [1]"
    )


def run_plan(arguments: argparse.Namespace) -> int:
    """Print the plan; 5 where the wish does not fit on one node."""
    model, gpu = _architecture(arguments.plan[0]), _gpu(arguments.plan[1])
    context = arguments.context or model.positions
    made = plan(model, gpu, context=context, sequences=arguments.sequences)
    if arguments.json:
        facts = asdict(model) | {"parameters": model.parameters, "active": model.active}
        facts["kv_bytes_per_token"] = model.kv_bytes(1)
        show({"model": facts, "gpu": asdict(gpu), "context": context, "plan": asdict(made)})
    else:
        print("\n".join(_words(model, gpu, context=context, made=made)))
    return 0 if made.chosen else 5


def _architecture(text: str) -> Architecture:
    found = qwen3.published(text)
    if found is not None:
        return found
    config = Path(text) / "config.json"
    if not config.is_file():
        known = ", ".join(qwen3.NAMES)
        raise ConfigError("plan-unknown", f"no published name and no config.json; known: {known}")
    return qwen3.from_config(read(config), name=Path(text).name)


def _gpu(text: str) -> Gpu:
    for gpu in GPUS:
        if gpu.name == text.upper():
            return gpu
    raise ConfigError("plan-unknown", f"known GPUs: {', '.join(gpu.name for gpu in GPUS)}")


def _words(model: Architecture, gpu: Gpu, *, context: int, made: Plan) -> list[str]:
    billions = f"{model.parameters / 1e9:.1f} billion parameters"
    active = f", {model.active / 1e9:.1f} active" if model.experts else ""
    token = model.kv_bytes(1)
    lines = [
        f"{model.name}: {billions}{active}, {model.weights} weights {made.disk_gib} GiB",
        f"KV cache: {token // 1024} KiB a token ({model.layers} layers, {model.kv_heads} KV heads)",
        f"in bfloat16, {token * context / GIB:.2f} GiB for a conversation of {context} tokens",
        "",
        f"on {gpu.name} ({gpu.memory_gib} GiB), tensor-parallel; what is left is an estimate",
        "GPUs  weights/GPU  KV/GPU     tokens in cache  full contexts",
    ]
    for option in made.options:
        rest = f"   {option.why_not}" if option.why_not else ""
        lines.append(
            f"{option.gpus:>4}  {option.weights_gib:>7.1f} GiB  {option.kv_gib:>5.1f} GiB"
            f"  {option.kv_tokens:>13,}  {option.full_contexts:>13,}{rest}"
        )
    return [*lines, "", *_advice(model, context=context, made=made)]


def _advice(model: Architecture, *, context: int, made: Plan) -> list[str]:
    chosen = made.chosen
    if chosen is None:
        return [
            "nothing fits on one node, and a confidential guest is one node: engines over several",
            "would send prompts between guests that nobody attested",
        ]
    switches = f" and {made.switches} NVSwitches (mode ppcie)" if made.switches else ""
    lines = [
        f"a guest: {made.guest_gpus} GPU{'s' if made.guest_gpus > 1 else ''}{switches}",
        f"estimates: {made.cpus} CPUs, {made.memory_gib} GiB of memory",
        f"disk: {made.disk_gib} GiB for the sealed package",
        f"configuration: tensor_parallel_size: {chosen.gpus}, max_model_len: {context}",
    ]
    if model.cuts_blocks(chosen.gpus):
        lines.append("FP8 blocks do not fit an expert's part: vLLM cuts them, with Triton only")
    if chosen.gpus != made.guest_gpus:
        lines.append(
            f"a guest has one GPU or all of a node, so {made.guest_gpus - chosen.gpus} stay idle"
        )
    if made.switches:
        lines.append("NVSwitches are not collected yet: such a guest is refused (SECURITY.md)")
    if context > model.positions:
        lines.append(f"the model was trained for {model.positions} tokens; vLLM refuses more")
    return lines


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 0 < value <= 1 << 24:
        raise argparse.ArgumentTypeError("give a number from 1 to 16777216")
    return value
