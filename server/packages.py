"""The models of a deployment, sealed or on a volume, each under the signer its settings name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from attestation.errors import ConfigError
from attestation.weights import BlockLayer, KernelBlockLayer, MountedModel, SealedModel
from server.settings import SealedModelSettings, Settings

KERNEL: BlockLayer = KernelBlockLayer()


def open_packages(
    settings: Settings,
    *,
    places: Mapping[str, Path] = MappingProxyType({}),
    kernel: BlockLayer = KERNEL,
) -> dict[str, SealedModel | MountedModel]:
    """Return every served model, by name; what can be checked without a key is checked.

    `places` says where some lie on this machine, if not where the settings say. There a volume is
    the plain directory that it is made of: nothing is asked about a mount.
    Raises `ConfigError` for a signer file that holds no key and for a golden output that is missing
    or that nobody could check, and the refusals of `SealedModel.open`
    and `MountedModel.open`.
    """
    packages = {
        name: _open(settings, name, place=places.get(name), kernel=kernel)
        for name in settings.file.models
    }
    for name, package in packages.items():
        generates = settings.file.models[name].engine.task == "generate"
        golden = package.manifest.golden is not None
        if generates and not golden and settings.file.profile == "production":
            raise ConfigError("golden-missing", f"the manifest of {name} says no golden output")
        if golden and not generates:
            raise ConfigError("golden-task", f"{name} says a golden output and is to say nothing")
    return packages


def _open(
    settings: Settings, name: str, *, place: Path | None, kernel: BlockLayer
) -> SealedModel | MountedModel:
    model, key = settings.file.models[name], signer(settings, name)
    if isinstance(model, SealedModelSettings):
        return SealedModel.open(place or settings.path(model.sealed), signer=key)
    if place is not None:
        return MountedModel.read(place, signer=key)
    directory, root_hash = settings.path(model.verity.directory), model.verity.root_hash
    return MountedModel.open(
        directory, root_hash=bytes.fromhex(root_hash), signer=key, kernel=kernel
    )


def signer(settings: Settings, name: str) -> Ed25519PublicKey:
    """Return the key that must have signed the manifest of model `name`."""
    try:
        key = load_pem_public_key(settings.trust[f"models.{name}.signer"])
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError("config-invalid", f"models.{name}.signer is not an Ed25519 public key")
    return key
