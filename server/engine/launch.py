"""The hardened launch set: an `EngineSpec` in, the one `Launch` it may be started with out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from attestation.errors import ConfigError
from attestation.keywire import LoaderSettings
from server.engine.tasks import Work, as_json, flags

MODULE = "vllm.entrypoints.launchers.api_server.entry"
PLUGIN = "tacit"
"""Name of our entry point in `vllm.general_plugins`; no other plug-in is loaded."""
GUARD = "tacit_vllm.guard.Guard"
SHUTDOWN_SECONDS = 30
"""How long the engine finishes streams after SIGTERM; with 0 an open stream would never end."""

_LONGEST_SOCKET_PATH = 107
_HASH_SEEDS = 2**32
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

TRUSTED_DEVICES = (
    "/sys/kernel/config",
    "/sys/devices/virtual/misc/tdx_guest",
    "/dev/tdx_guest",
)
"""What makes quotes and extends RTMRs: a broken engine must not attest in our name."""

FORBIDDEN = frozenset(
    {
        # contents in logs, on disk or on the network
        "--enable-log-requests",
        "--enable-log-outputs",
        "--enable-log-deltas",
        "--log-error-stack",
        "--log-level",
        "--log-config-file",
        "--logging-config",
        "--max-log-len",
        "--otlp-traces-endpoint",
        "--collect-detailed-traces",
        "--profiler-config",
        "--kv-events-config",
        "--kv-transfer-config",
        "--kv-offloading-size",
        "--kv-offloading-backend",
        "--ec-transfer-config",
        "--enable-trace-replay",
        "--tool-server",
        "--enable-prompt-tokens-details",
        "--enable-per-request-metrics",
        "--enable-request-id-headers",
        # more doors than the one socket
        "--host",
        "--port",
        "--grpc",
        "--grpc-port",
        "--api-key",
        "--root-path",
        "--enable-scale-out",
        "--tokens-only",
        "--headless",
        "--nnodes",
        "--node-rank",
        "--master-addr",
        "--master-port",
        "--data-parallel-size",
        "--data-parallel-address",
        "--data-parallel-backend",
        "--weight-transfer-config",
        "--enable-tokenizer-info-endpoint",
        "--enable-offline-docs",
        "--enable-sleep-mode",
        "--allowed-local-media-path",
        "--allowed-media-domains",
        # code or parameters that the measured model does not hold
        "--config",
        "--trust-remote-code",
        "--trust-request-chat-template",
        "--trust-request-mm-kwargs",
        "--chat-template",
        "--enable-lora",
        "--lora-modules",
        "--tool-parser-plugin",
        "--reasoning-parser-plugin",
        "--logits-processors",
        "--io-processor-plugin",
        "--worker-cls",
        "--worker-extension-cls",
        "--scheduler-cls",
        "--hf-token",
        "--tokenizer",
        "--download-dir",
        "--enable-prompt-embeds",
        "--enable-mm-embeds",
    }
)
"""Flags that an engine of ours never gets, in any spelling that vLLM's parser accepts."""

_WHOLE = frozenset({"--reasoning-parser"})
"""Flags of ours with which a forbidden one begins."""


@dataclass(frozen=True, slots=True)
class SealedWeights:
    """A package that our loader opens with the key it asks the gateway for."""

    directory: PurePosixPath
    signer: bytes
    """Raw Ed25519 key that must have signed the manifest."""


@dataclass(frozen=True, slots=True)
class MountedWeights:
    """Ordinary files on a volume that was proven not to change; vLLM's own loader reads them."""

    directory: PurePosixPath


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine: what it serves, from where, and with how much."""

    python: PurePosixPath
    """Interpreter of the engine's environment."""
    name: str
    """Served model name."""
    directory: PurePosixPath
    """The engine's own, in memory: both sockets, the model's small files, scratch space."""
    weights: SealedWeights | MountedWeights
    device: Literal["cpu", "cuda"]
    dtype: Literal["bfloat16", "float16", "float32"]
    max_model_len: int
    max_sequences: int
    max_queued: int
    tensor_parallel_size: int
    kv_cache_gib: int
    """KV cache of the CPU backend, in GiB; a GPU uses what its memory leaves."""
    work: Work
    hash_seed: int
    """Random per boot, below 2^32: block hashes of the prefix cache cannot be guessed."""
    run_directory: PurePosixPath
    """The parent of all engines' directories; the engine sees only its own in it."""
    hidden: tuple[str, ...] = field(default=TRUSTED_DEVICES, kw_only=True)
    """Paths that the engine must not reach."""
    first_gpu: int = field(default=0, kw_only=True)
    """The first of the GPUs that are this engine's alone, as many as its ranks."""
    counts: bool = field(default=False, kw_only=True)
    """Whether vLLM keeps the numbers that `/metrics` shows."""

    def __post_init__(self) -> None:
        places = (self.python, self.directory, self.weights.directory, self.run_directory)
        if not all(path.is_absolute() for path in places):
            raise ConfigError("engine-path", "paths of an engine are absolute")
        if self.run_directory not in self.directory.parents:
            raise ConfigError("engine-path", "the engine's directory lies in the run directory")
        longest = max(len(str(path).encode()) for path in (self.socket, self.key_socket))
        if longest > _LONGEST_SOCKET_PATH:
            raise ConfigError("engine-path", f"socket path of {longest} bytes, limit 107")
        if not 0 <= self.hash_seed < _HASH_SEEDS:
            raise ConfigError("engine-path", "hash seed is not below 2^32")

    @property
    def socket(self) -> PurePosixPath:
        """Where the engine answers HTTP."""
        return self.directory / "engine.sock"

    @property
    def key_socket(self) -> PurePosixPath:
        """Where the gateway's key agent answers the engine's workers."""
        return self.directory / "keys.sock"

    @property
    def model(self) -> PurePosixPath:
        """Configuration, tokenizer and template: unsealed in memory, or beside mounted weights."""
        if isinstance(self.weights, MountedWeights):
            return self.weights.directory
        return self.directory / "model"

    @property
    def scratch(self) -> PurePosixPath:
        """HOME, TMPDIR and every cache of the engine; a private mount where that is possible."""
        return self.directory / "scratch"


@dataclass(frozen=True, slots=True)
class Launch:
    """Exactly what is started, and what it may see. `server.engine.enter` carries it out."""

    name: str
    python: str
    """Interpreter that runs the bootstrap."""
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    """The whole environment; nothing is inherited."""
    socket: str
    scratch: str
    kept: tuple[str, ...]
    """Directories that stay visible although a private mount covers their parent."""
    hidden: tuple[str, ...]
    """Paths that are replaced by nothing."""
    covered: tuple[str, ...]
    """Directories that are replaced by an empty private tmpfs."""


def launch(spec: EngineSpec) -> Launch:
    """Return what `spec` is started with."""
    return Launch(
        name=spec.name,
        python=str(spec.python),
        argv=argv(spec),
        environment=environment(spec),
        socket=str(spec.socket),
        scratch=str(spec.scratch),
        kept=(str(spec.directory), str(spec.weights.directory)),
        hidden=spec.hidden,
        covered=("/dev/shm", str(spec.run_directory)),  # noqa: S108 - covered, not used
    )


def argv(spec: EngineSpec) -> tuple[str, ...]:
    """Return the engine's command line. It is world-readable in /proc and holds no secret."""
    line = (
        *(str(spec.python), "-s", "-P", "-m", MODULE),
        *("--uds", str(spec.socket)),
        *("--model", str(spec.model)),
        *("--served-model-name", spec.name),
        *_loading(spec),
        *("--middleware", GUARD),
        *("--dtype", spec.dtype),
        *("--max-model-len", str(spec.max_model_len)),
        *("--max-num-seqs", str(spec.max_sequences)),
        *("--max-num-queued-reqs", str(spec.max_queued)),
        *("--tensor-parallel-size", str(spec.tensor_parallel_size)),
        *flags(spec.work),
        "--disable-uvicorn-access-log",
        *("--uvicorn-log-level", "warning"),
        "--disable-fastapi-docs",
        *(() if spec.counts else ("--disable-log-stats",)),
        *("--fingerprint-mode", "none"),
        *("--shutdown-timeout", str(SHUTDOWN_SECONDS)),
        *(("--enforce-eager",) if spec.device == "cpu" else ()),
    )
    check_flags(line)
    return line


def environment(spec: EngineSpec) -> dict[str, str]:
    """Return the engine's whole environment, built from nothing."""
    scratch = str(spec.scratch)
    values = {
        # -- where it may write
        "HOME": scratch,
        "TMPDIR": scratch,
        "XDG_CACHE_HOME": f"{scratch}/cache",
        "XDG_CONFIG_HOME": f"{scratch}/config",
        "HF_HOME": f"{scratch}/huggingface",
        "TORCHINDUCTOR_CACHE_DIR": f"{scratch}/inductor",
        "TRITON_CACHE_DIR": f"{scratch}/triton",
        "VLLM_CACHE_ROOT": f"{scratch}/vllm",
        "VLLM_CONFIG_ROOT": f"{scratch}/config/vllm",
        "VLLM_RPC_BASE_PATH": scratch,
        # -- what it loads
        "PATH": f"{spec.python.parent}:{_PATH}",
        "LANG": "C.UTF-8",
        "PYTHONNOUSERSITE": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": str(spec.hash_seed),
        "VLLM_PLUGINS": PLUGIN,
        # -- whom it tells
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_MAX_N_SEQUENCES": "8",
    }
    if spec.device == "cpu":
        values["VLLM_CPU_KVCACHE_SPACE"] = str(spec.kv_cache_gib)
    else:
        # of its own: an engine takes most of the memory of each GPU that it sees
        gpus = range(spec.first_gpu, spec.first_gpu + spec.tensor_parallel_size)
        values["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        values["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
        # a GPU core dump is the KV cache, which is the prompts
        values["CUDA_ENABLE_COREDUMP_ON_EXCEPTION"] = "0"
        values["CUDA_ENABLE_LIGHTWEIGHT_COREDUMP"] = "0"
    return values


def check_flags(line: Sequence[str]) -> None:
    """Raise `ConfigError` if the part of `line` that vLLM parses holds a flag of `FORBIDDEN`.

    vLLM takes underscores for hyphens, `--flag=value`, `--flag.key` and any clear beginning of a
    flag; its one-letter flags are never needed.
    """
    for word in line[line.index(MODULE) + 1 :]:
        if word.startswith("-"):
            stem = word.partition("=")[0].partition(".")[0].replace("_", "-")
            begun = any(flag.startswith(stem) for flag in FORBIDDEN) and stem not in _WHOLE
            if begun or not stem.startswith("--"):
                raise ConfigError("engine-flag", f"{stem} is never given to an engine")


def _loading(spec: EngineSpec) -> tuple[str, ...]:
    if isinstance(spec.weights, MountedWeights):
        return ("--load-format", "safetensors")
    loader = LoaderSettings(
        key_socket=str(spec.key_socket),
        sealed_dir=str(spec.weights.directory),
        signer=spec.weights.signer.hex(),
        model=spec.name,
    )
    extra = as_json(loader.model_dump())
    return ("--load-format", "sealed", "--model-loader-extra-config", extra)
