"""Settings: one YAML and the trust files it names, read once and hashed as they were read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from attestation.codec import Document, length_prefixed, parse_yaml
from attestation.endorse import Endorser
from attestation.endorsers import Source, open_endorser
from attestation.errors import ConfigError
from attestation.keyset import Line, Name
from attestation.pccs import Clock
from attestation.regular import read_regular
from attestation.types import Digest
from server.access import ClientSettings, OperatorSettings, Tenant, TenantSettings
from server.engine.tasks import Generating, Pooling, ToolCallParser, Work
from server.telemetry.settings import TelemetrySettings

ResourcePath = Annotated[
    str, StringConstraints(pattern=r"^[\w-]+[\w.-]*/[\w-]+[\w.-]*/[\w-]+[\w.-]*$")
]
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Port = Annotated[int, Field(ge=0, le=65535)]

_LABEL = b"tacit/v1/config"
_MAX_TRUST_FILE = 64 * 1024


class Listen(Document):
    """The public listener. Port 0 takes any free port."""

    host: str
    port: Port
    hostnames: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names and addresses in the certificate of this boot."""


class SimulatedTdx(Document):
    """Software TDX: directories that look like the kernel's, signed by a test root."""

    mode: Literal["insecure-simulated"]
    directory: FilePath
    endorsements: Source


class KernelTdx(Document):
    """The TDX guest interface of the Linux kernel."""

    mode: Literal["tdx"]
    endorsements: Source
    """Collateral stapled to reports; not trusted, so not measured."""


class NoGpu(Document):
    """No GPU takes part; evidence covers none."""

    mode: Literal["none"]


class NvidiaGpu(Document):
    """Confidential GPUs, through NVML, under NVIDIA's roots. How many is for policies to say.

    NVIDIA's statements lie beside Intel's, in the directory `attestation.endorsements`.
    """

    mode: Literal["nvidia"]


class SimulatedGpu(Document):
    """Software GPUs of a simulator, under the roots of its mock NVIDIA."""

    mode: Literal["insecure-simulated"]
    directory: FilePath
    device_root: FilePath
    rim_root: FilePath
    """PEM certificates; measured."""


class _Broker(Document):
    url: Annotated[str, StringConstraints(pattern=r"^https://[^/?#@\s]+$")]
    certificate: FilePath
    """Measured: no other key completes a handshake."""
    api_key_pepper: ResourcePath
    retry_seconds: Annotated[int, Field(ge=0, le=3600)]
    """How long boot keeps asking a broker that is down or cannot decide."""


class KbsBroker(_Broker):
    """A broker that speaks KBS 0.4.0: ours, or a Trustee.

    KBS signs no release, so the measured certificate is all that keeps a fake broker from handing
    out keys. A Trustee says with its resource policy who gets what; its default lets anyone.
    """

    protocol: Literal["kbs"]
    session: Literal["cookie", "bearer"]
    """What names the guest after it attested: the cookie of that KBS, or the attestation token."""


class NativeBroker(_Broker):
    """A broker of ours: post-quantum sealing, and a statement signed about every release."""

    protocol: Literal["native"]
    statement_key: FilePath
    """PEM public key (P-256) of the broker's `token_key`; measured."""


BrokerEndpoint = Annotated[KbsBroker | NativeBroker, Field(discriminator="protocol")]


class _EngineSettings(Document):
    """How vLLM serves one model; every value reaches its command line and nothing else does."""

    python: FilePath
    device: Literal["cpu", "cuda"]
    isolation: Literal["required", "best-effort"]
    dtype: Literal["bfloat16", "float16", "float32"]
    max_model_len: Annotated[int, Field(ge=256, le=1_048_576)]
    max_sequences: Annotated[int, Field(ge=1, le=1024)]
    max_queued: Annotated[int, Field(ge=1, le=65_536)]
    tensor_parallel_size: Annotated[int, Field(ge=1, le=64)]
    kv_cache_gib: Annotated[int, Field(ge=1, le=2048)]
    """KV cache of the CPU backend, in GiB; a GPU uses what its memory leaves."""
    start_seconds: Annotated[int, Field(ge=30, le=7200)]


class GeneratingEngine(_EngineSettings):
    """A model that answers in words: chat, completions, responses."""

    task: Literal["generate"]
    reasoning: bool
    """Whether the model thinks before it answers (Qwen3 does, its Instruct variants do not)."""
    tool_call_parser: ToolCallParser

    @property
    def work(self) -> Work:
        """Return what the engine is started for."""
        return Generating(self.reasoning, self.tool_call_parser)


class PoolingEngine(_EngineSettings):
    """A model that makes vectors (`/v1/embeddings`) or orders documents (`/v1/rerank`).

    Each input or document is one of the sequences that `max_sequences` and `max_queued` count.
    """

    task: Literal["embed", "rerank"]

    @property
    def work(self) -> Work:
        """Return what the engine is started for."""
        return Pooling(self.task)


EngineSettings = Annotated[GeneratingEngine | PoolingEngine, Field(discriminator="task")]


class _Model(Document):
    signer: FilePath
    """PEM public key of the manifest's signer; measured."""
    engine: EngineSettings


class SealedModelSettings(_Model):
    """A served model whose weights are sealed: where the package lies and which key opens it."""

    sealed: FilePath
    key: ResourcePath


class VerityVolume(Document):
    """A volume that the guest image mounted under dm-verity."""

    directory: FilePath
    root_hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """What `veritysetup format` printed, in hex; measured, so a policy pins it."""


class VerityModelSettings(_Model):
    """A served model on a volume the host can read, and cannot change."""

    verity: VerityVolume


def _kind(value: object) -> Literal["sealed", "verity"]:
    is_verity = "verity" in value if isinstance(value, dict) else hasattr(value, "verity")
    return "verity" if is_verity else "sealed"


ModelSettings = Annotated[
    Annotated[SealedModelSettings, Tag("sealed")] | Annotated[VerityModelSettings, Tag("verity")],
    Discriminator(_kind),
]
"""How the weights of one served model are held; there is no third way."""


class PostureSettings(Document):
    """What the operator declares; attested as part of the keyset."""

    operator: Line
    jurisdiction: Line


class LimitSettings(Document):
    """Bounds on what one client and all clients together may ask."""

    body_bytes: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)]
    concurrent_requests: Annotated[int, Field(ge=1, le=65_536)]
    request_seconds: Annotated[int, Field(ge=1, le=86_400)]
    read_seconds: Annotated[int, Field(ge=1, le=600)]
    drain_seconds: Annotated[int, Field(ge=1, le=3600)]


class SettingsFile(Document):
    """The YAML of one deployment, every key required: an absent line cannot weaken anything."""

    version: Literal[1]
    profile: Literal["production", "simulated"]
    listen: Listen
    attestation: Annotated[SimulatedTdx | KernelTdx, Field(discriminator="mode")]
    gpu: Annotated[NoGpu | NvidiaGpu | SimulatedGpu, Field(discriminator="mode")]
    broker: BrokerEndpoint
    models: Annotated[dict[Name, ModelSettings], Field(min_length=1)]
    api_keys: FilePath
    run_directory: FilePath
    posture: PostureSettings
    limits: LimitSettings
    clients: ClientSettings | None = None
    """Absent: clients log in with API keys alone."""
    tenants: Annotated[dict[Tenant, TenantSettings], Field(min_length=1)] | None = None
    """Absent: each tenant of the key file may ask what `limits` allow all together."""
    operator: OperatorSettings | None = None
    """Absent: there is no operator listener, so no metrics and no administration over HTTP."""
    telemetry: TelemetrySettings | None = None
    """Absent: nothing is pushed, and metrics name no tenant and nothing of vLLM's."""

    def first_gpu(self, model: str) -> int:
        """Return the number of the first GPU of a model: each model has GPUs of its own."""
        engines = (self.models[name].engine for name in sorted(self.models) if name < model)
        return sum(each.tensor_parallel_size for each in engines if each.device == "cuda")

    @model_validator(mode="after")
    def _tenants_fit(self) -> SettingsFile:
        for name, tenant in (self.tenants or {}).items():
            for model in tenant.models:
                if model not in self.models:
                    raise ValueError(f"tenant {name} names a model that is not served")
                if tenant.tokens_per_minute < self.models[model].engine.max_model_len:
                    raise ValueError(f"tenant {name} has fewer tokens a minute than one context")
        unlisted = self._logged_in() - (self.tenants or {}).keys()
        if self.tenants is not None and unlisted:
            raise ValueError(f"clients log in as {len(unlisted)} tenants that are not listed")
        return self

    def _logged_in(self) -> set[str]:
        ways = () if self.clients is None else (self.clients.tokens, self.clients.certificates)
        return {tenant for way in ways if way is not None for tenant in way.tenants.values()}

    @model_validator(mode="after")
    def _production_is_real(self) -> SettingsFile:
        if self.profile != "production":
            return self
        if self.attestation.mode != "tdx":
            raise ValueError("profile production cannot use simulated attestation")
        if self.gpu.mode == "insecure-simulated":
            raise ValueError("profile production cannot use simulated GPUs")
        cuda = any(model.engine.device == "cuda" for model in self.models.values())
        if cuda and self.gpu.mode != "nvidia":
            raise ValueError("profile production with device: cuda needs gpu mode: nvidia")
        if any(model.engine.isolation != "required" for model in self.models.values()):
            raise ValueError("profile production needs engine isolation: required")
        return self


@dataclass(frozen=True, slots=True)
class Settings:
    """A parsed deployment, its digest, and the bytes of the trust files that digest covers."""

    file: SettingsFile
    directory: Path
    digest: Digest
    trust: dict[str, bytes]

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read, hash and parse `path`; the same bytes are hashed and parsed.

        The digest is SHA-256("tacit/v1/config" ‖ lp(YAML) ‖ lp(name) ‖ lp(bytes) …) over the trust
        files in the order of their names, so whoever swaps one changes the measurement.
        """
        data = _read(path)
        file = parse_yaml(SettingsFile, data, name=path.name)
        directory = path.resolve().parent
        named = {"broker.certificate": file.broker.certificate}
        if isinstance(file.broker, NativeBroker):
            named["broker.statement_key"] = file.broker.statement_key
        if isinstance(file.gpu, SimulatedGpu):
            named |= {"gpu.device": file.gpu.device_root, "gpu.rim": file.gpu.rim_root}
        if (operator := file.operator) is not None:
            login = operator.login
            named["operator.login"] = login.ca if login.kind == "mtls" else login.jwks
        if file.telemetry is not None and file.telemetry.otlp is not None:
            named["telemetry.otlp"] = file.telemetry.otlp.ca
        if (clients := file.clients) is not None:
            if clients.tokens is not None:
                named["clients.tokens"] = clients.tokens.jwks
            if clients.certificates is not None:
                named["clients.certificates"] = clients.certificates.ca
        named |= {f"models.{name}.signer": model.signer for name, model in file.models.items()}
        trust = {name: _read(directory / named[name]) for name in sorted(named)}
        parts = [part for name, value in trust.items() for part in (name.encode(), value)]
        digest = Digest.sha256(_LABEL + length_prefixed(data, *parts))
        return cls(file, directory, digest, trust)

    def endorser(self, *, clock: Clock) -> Endorser:
        """Open what finds the statements that are stapled to reports; raises `ConfigError`."""
        source = self.file.attestation.endorsements
        return open_endorser(source, directory=self.directory, clock=clock)

    def path(self, text: str) -> Path:
        """Resolve a path of the file relative to the file's own directory."""
        return self.directory / text


def _read(path: Path) -> bytes:
    try:
        data = read_regular(path, limit=_MAX_TRUST_FILE)
    except OSError as error:
        raise ConfigError("config-file-missing", f"{path}: {error.strerror}") from None
    if len(data) > _MAX_TRUST_FILE:
        raise ConfigError("config-invalid", f"{path.name} is over {_MAX_TRUST_FILE} bytes")
    return data
