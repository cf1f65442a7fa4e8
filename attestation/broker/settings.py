"""The broker's YAML and every file it names, read once: a broker that can be started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from attestation.broker.admin import Login
from attestation.broker.database import postgresql_url, sqlite_url
from attestation.broker.ear import TokenKey
from attestation.broker.kek import Kek, open_kek
from attestation.broker.keyfile import ResourcePath, WrappedResource, parse_wrapped
from attestation.broker.release import Resource
from attestation.broker.rules import SIMULATED, KeyRules
from attestation.codec import Document, parse_yaml
from attestation.dsse import public_key
from attestation.endorsers import Source
from attestation.errors import ConfigError
from attestation.policy import Policy
from attestation.policy_signature import Number
from attestation.regular import read_regular

FilePath = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
_MAX_FILE = 1024 * 1024


class Listen(Document):
    """Where the broker listens. Port 0 takes any free port."""

    host: str
    port: Annotated[int, Field(ge=0, le=65535)]


class Tls(Document):
    """The broker's certificate, which guests pin by their measured configuration, and its key."""

    certificate: FilePath
    key: FilePath


class ResourceFile(Document):
    """One resource: its name, its wrapped bytes, and the policy a guest must meet for it."""

    resource: ResourcePath
    kind: Literal["model-key", "secret"]
    wrapped_key: FilePath
    policy: FilePath
    rules: KeyRules | None = None
    """Required in profile production; in a simulated one `rules.SIMULATED` stands in."""


class LimitSettings(Document):
    """Bounds on sessions, and on the requests of one address."""

    sessions: Annotated[int, Field(ge=16, le=65_536)]
    session_seconds: Annotated[int, Field(ge=5, le=3600)]
    per_minute: Annotated[int, Field(ge=1, le=100_000)] = 600
    burst: Annotated[int, Field(ge=1, le=100_000)] = 1000


class AdminFile(Document):
    """The admin listener; there is none unless the file has one, and no login by default."""

    listen: Listen
    tls: Tls
    login: Login


class BrokerFile(Document):
    """The YAML of one broker, every key required; paths are relative to the file."""

    version: Literal[1]
    profile: Literal["production", "simulated"]
    listen: Listen
    tls: Tls
    store: Annotated[
        str, StringConstraints(pattern=r"^(sqlite:[^/].*|sqlite:/[^/].*|postgresql://.*)$")
    ]
    """`sqlite:PATH`; for several brokers `postgresql://USER@HOST/DATABASE?passfile=FILE`."""
    kek: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+:.+$")]
    token_key: FilePath
    endorsements: Source
    policy: FilePath
    policy_signer: FilePath | None = None
    """Ed25519 public key whose signature every policy must have; required in production."""
    policy_minimum: Number = 1
    """Lowest number of a signed policy: an older one is refused."""
    resources: Annotated[tuple[ResourceFile, ...], Field(min_length=1)]
    limits: LimitSettings
    admin: AdminFile | None = None

    @model_validator(mode="after")
    def _production_is_real(self) -> BrokerFile:
        if self.profile == "production" and self.kek.startswith("file:"):
            raise ValueError("profile production keeps its KEK in a KMS or an HSM, not in a file")
        if self.profile == "production" and not all(item.rules for item in self.resources):
            raise ValueError("profile production needs rules for every resource")
        names = [item.resource for item in self.resources]
        if len(set(names)) != len(names):
            raise ValueError("a resource is listed twice")
        return self


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """A parsed broker file and the directory its paths are relative to."""

    file: BrokerFile
    directory: Path

    @classmethod
    def load(cls, path: Path) -> BrokerSettings:
        """Read and parse `path`, or raise `ConfigError`."""
        file = parse_yaml(BrokerFile, read_file(path), name=path.name)
        return cls(file, path.resolve().parent)

    def path(self, text: str) -> Path:
        """Resolve a path of the file."""
        return self.directory / text

    @property
    def store_url(self) -> str:
        """The store as a SQLAlchemy URL."""
        scheme, _, location = self.file.store.partition(":")
        if scheme != "sqlite":
            encrypted = self.file.profile == "production"
            url = postgresql_url(self.file.store, encrypted=encrypted)
            return url.render_as_string(hide_password=False)
        return sqlite_url(str(self.path(location))).render_as_string(hide_password=False)

    def kek(self) -> Kek:
        """Open the KEK; files its URI names are relative to the directory of the broker file."""
        return open_kek(self.file.kek, directory=self.directory)

    def token_key(self) -> TokenKey:
        """Load the key that signs attestation results."""
        return TokenKey.load(read_file(self.path(self.file.token_key)), name=self.file.token_key)

    def policy(self) -> Policy:
        """Load the default policy."""
        return self._policy(self.file.policy)

    def resources(self) -> dict[str, Resource]:
        """Load every resource with its policy; file, name and kind must agree."""
        return {item.resource: self._resource(item) for item in self.file.resources}

    def _resource(self, item: ResourceFile) -> Resource:
        wrapped: WrappedResource = parse_wrapped(
            read_file(self.path(item.wrapped_key)), name=item.wrapped_key
        )
        if (wrapped.resource, wrapped.kind) != (item.resource, item.kind):
            raise ConfigError(
                "wrapped-key", f"{item.wrapped_key} holds {wrapped.kind} {wrapped.resource}"
            )
        return Resource(wrapped, self._policy(item.policy), item.rules or SIMULATED)

    def _policy(self, name: str) -> Policy:
        data, key = read_file(self.path(name)), self.file.policy_signer
        if key is None:
            policy = Policy.load(data, name=name)
        else:
            signer = public_key(read_file(self.path(key)), name=key)
            minimum = self.file.policy_minimum
            policy = Policy.load_signed(data, signer=signer, name=name, minimum=minimum)
        policy.require_signature()
        if policy.profile != self.file.profile:
            raise ConfigError(
                "config-invalid", f"a {self.file.profile} broker with {policy.profile} {name}"
            )
        return policy


def read_file(path: Path) -> bytes:
    """Read a file of at most 1 MiB that the settings name, or raise `ConfigError`."""
    try:
        data = read_regular(path, limit=_MAX_FILE)
    except OSError as error:
        raise ConfigError("config-file-missing", f"{path}: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise ConfigError("config-invalid", f"{path.name} is over {_MAX_FILE} bytes")
    return data
