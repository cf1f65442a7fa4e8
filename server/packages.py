"""The sealed packages of a deployment, each opened under the signer its settings name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from attestation.errors import ConfigError
from attestation.weights import SealedModel
from server.settings import Settings


def open_packages(
    settings: Settings, *, places: Mapping[str, Path] = MappingProxyType({})
) -> dict[str, SealedModel]:
    """Return the package of every served model, by name; manifest, listing and tags are checked.

    `places` says where some lie on this machine, if not where the settings say.
    Raises `ConfigError` for a signer file that holds no key and for a golden output that is missing
    or that nobody could check, and the refusals of `SealedModel.open`.
    """
    packages = {
        name: SealedModel.open(
            places.get(name, settings.path(model.sealed)), signer=signer(settings, name)
        )
        for name, model in settings.file.models.items()
    }
    for name, package in packages.items():
        generates = settings.file.models[name].engine.task == "generate"
        golden = package.manifest.golden is not None
        if generates and not golden and settings.file.profile == "production":
            raise ConfigError("golden-missing", f"the manifest of {name} says no golden output")
        if golden and not generates:
            raise ConfigError("golden-task", f"{name} says a golden output and is to say nothing")
    return packages


def signer(settings: Settings, name: str) -> Ed25519PublicKey:
    """Return the key that must have signed the manifest of model `name`."""
    try:
        key = load_pem_public_key(settings.trust[f"models.{name}.signer"])
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError("config-invalid", f"models.{name}.signer is not an Ed25519 public key")
    return key
