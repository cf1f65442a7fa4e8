"""Sizing arithmetic: an architecture, a GPU and a wish in; what fits and what a node needs out.

Exact: parameters, weights and KV cache. Estimated, and named so: what vLLM 0.32 takes beside them
(`_RESERVED`, activations of one profiling batch) and the host's share. Nothing here was measured on
these GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Literal

GIB = 1 << 30
_UTILIZATION = 0.92
"""Part of a GPU's memory that vLLM 0.32 uses when nobody says otherwise; we do not."""
_RESERVED = {False: 2.5 * GIB, True: 3.5 * GIB}
"""CUDA context and graphs; with more than one GPU also NCCL's buffers. An estimate."""
_BLOCK = 128
_FINEST_BLOCK = 32
"""FP8 scales cover 128 x 128 weights; vLLM 0.32 cuts an expert's blocks down to 32."""
_PROFILED_SEQUENCES = 256
_NODE = 8


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU as a guest gets it."""

    name: str
    memory_gib: int
    """What CUDA reports as total, rounded down."""
    batch_tokens: int
    """Tokens vLLM 0.32 batches by default on it."""
    switches: int
    """NVSwitches that are passed through together with all eight GPUs."""


GPUS = (Gpu("H100", 79, 8192, 4), Gpu("H200", 139, 8192, 4), Gpu("B200", 178, 16384, 0))


@dataclass(frozen=True, slots=True)
class Architecture:
    """What of a Qwen3 configuration decides sizes."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    """Width of the dense MLP, or of one expert."""
    vocabulary: int
    tied: bool
    """Whether the output layer is the embedding."""
    experts: int
    """0 in a dense model."""
    experts_used: int
    positions: int
    weights: Literal["bf16", "fp8"]

    @property
    def parameters(self) -> int:
        """Return how many numbers the model holds."""
        return self._split + self._kv + self._embedding + self._whole

    @property
    def active(self) -> int:
        """Return how many take part in one token."""
        unused = max(self.experts - self.experts_used, 0)
        return self.parameters - self.layers * unused * 3 * self.hidden * self.intermediate

    def weight_bytes(self, gpus: int) -> int:
        """Return the bytes of weights on each of `gpus` GPUs, tensor-parallel."""
        copies = max(gpus // self.kv_heads, 1)  # KV heads that are fewer than GPUs are repeated
        quantized = self._split // gpus + self._kv * copies // gpus
        rest = 2 * (self._embedding // gpus + self._whole)
        if self.weights == "fp8":
            return quantized + 4 * quantized // _BLOCK**2 + rest
        return 2 * quantized + rest

    def kv_bytes(self, gpus: int) -> int:
        """Return the bytes of KV cache that one token takes on each GPU, in bfloat16."""
        return 2 * self.layers * -(-self.kv_heads // gpus) * self.head_dim * 2

    def obstacle(self, gpus: int) -> str:
        """Say why these weights cannot be cut for `gpus` GPUs; empty where they can."""
        if self.heads % gpus or self.intermediate % gpus:
            return f"{self.heads} heads or {self.intermediate} columns do not divide by {gpus}"
        if max(self.kv_heads, gpus) % min(self.kv_heads, gpus):
            return f"{self.kv_heads} KV heads are no multiple or divisor of {gpus}"
        width = self.intermediate // gpus
        finest = _FINEST_BLOCK if self.experts else _BLOCK
        if self.weights == "fp8" and gpus > 1 and gcd(width, _BLOCK) < finest:
            return f"FP8 blocks of {_BLOCK} do not divide {width} columns"
        return ""

    def cuts_blocks(self, gpus: int) -> bool:
        """Whether an expert's FP8 blocks are cut for `gpus` GPUs, which only Triton can use."""
        return self.weights == "fp8" and gpus > 1 and self.intermediate // gpus % _BLOCK != 0

    def activation_bytes(self, tokens: int, *, gpus: int) -> int:
        """Estimate what one batch of `tokens` needs while it is computed."""
        width, used = self.intermediate // gpus, max(self.experts_used, 1)
        layer = tokens * (used * (3 * width + (self.hidden if self.experts else 0)))
        stream = tokens * (4 * self.hidden + 2 * self.heads * self.head_dim // gpus)
        return 2 * (layer + stream) + 10 * _PROFILED_SEQUENCES * self.vocabulary

    @property
    def _split(self) -> int:
        """Weights that tensor parallelism divides and FP8 quantizes."""
        attention = 2 * self.hidden * self.heads * self.head_dim
        return self.layers * (
            attention + max(self.experts, 1) * 3 * self.hidden * self.intermediate
        )

    @property
    def _kv(self) -> int:
        return self.layers * 2 * self.hidden * self.kv_heads * self.head_dim

    @property
    def _embedding(self) -> int:
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def _whole(self) -> int:
        """Norms and routers: on every GPU, never quantized."""
        layer = 2 * self.hidden + 2 * self.head_dim + self.experts * self.hidden
        return self.layers * layer + self.hidden


@dataclass(frozen=True, slots=True)
class Option:
    """One degree of tensor parallelism."""

    gpus: int
    weights_gib: float
    """On each GPU."""
    kv_gib: float
    """Left for KV cache on each GPU; 0 where the weights do not fit."""
    kv_tokens: int
    """In the whole cache."""
    full_contexts: int
    """Conversations of the wished length that fit at once."""
    guest: bool
    """Whether a confidential guest can have exactly these: one GPU, or all of a node."""
    why_not: str
    """Empty where it fits."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What fits, and what the smallest guest that fits needs."""

    options: tuple[Option, ...]
    chosen: Option | None
    guest_gpus: int
    """GPUs of the guest: 1, or all of a node; 0 where nothing fits."""
    switches: int
    cpus: int
    """An estimate: the gateway, and per GPU one worker and vLLM's share."""
    memory_gib: int
    """An estimate of the guest's memory; weights pass through it and do not stay."""
    disk_gib: float
    """The sealed package."""


def plan(architecture: Architecture, gpu: Gpu, *, context: int, sequences: int) -> Plan:
    """Plan `sequences` conversations of `context` tokens at once on one node of `gpu`."""
    wish = (context, sequences)
    options = tuple(_option(architecture, gpu, gpus=gpus, wish=wish) for gpus in (1, 2, 4, 8))
    fitting = [option for option in options if not option.why_not]
    chosen = next((option for option in fitting if option.guest), None)
    guest = chosen.gpus if chosen else _NODE if fitting else 0
    chosen = chosen or (fitting[-1] if fitting else None)
    return Plan(
        options,
        chosen,
        guest_gpus=guest,
        switches=gpu.switches if guest == _NODE else 0,
        cpus=8 + 8 * guest,
        memory_gib=32 + 16 * guest,
        disk_gib=round(architecture.weight_bytes(1) / GIB, 1),
    )


def _option(architecture: Architecture, gpu: Gpu, *, gpus: int, wish: tuple[int, int]) -> Option:
    context, sequences = wish
    weights = architecture.weight_bytes(gpus)
    used = weights + architecture.activation_bytes(gpu.batch_tokens, gpus=gpus)
    room = max(int(gpu.memory_gib * GIB * _UTILIZATION - used - _RESERVED[gpus > 1]), 0)
    tokens = room // architecture.kv_bytes(gpus)
    why_not = architecture.obstacle(gpus)
    if not why_not and tokens < context:
        why_not = "weights leave no room" if room == 0 else f"one context of {context} is too long"
    elif not why_not and tokens // context < sequences:
        why_not = f"{tokens // context} of {sequences} contexts fit"
    return Option(
        gpus,
        weights_gib=round(weights / GIB, 1),
        kv_gib=round(room / GIB, 1),
        kv_tokens=tokens,
        full_contexts=tokens // context,
        guest=gpus in {1, _NODE},
        why_not=why_not,
    )
