"""Weights on disk: seal a model's directory, open a package or volume, unseal with its key."""

from attestation.weights.journal import Journal, fingerprint
from attestation.weights.mounted import BlockLayer, KernelBlockLayer, MountedModel
from attestation.weights.package import SealedModel
from attestation.weights.pages import pages
from attestation.weights.plaintext import Plaintext, SealedSource
from attestation.weights.sealer import begin, check_apart, seal, seal_files
from attestation.weights.source import Inventory, inventory
from attestation.weights.unlocked import SMALL_ROLES, UnlockedModel, Unsealing, is_memory_backed

__all__ = [
    "SMALL_ROLES",
    "BlockLayer",
    "Inventory",
    "Journal",
    "KernelBlockLayer",
    "MountedModel",
    "Plaintext",
    "SealedModel",
    "SealedSource",
    "UnlockedModel",
    "Unsealing",
    "begin",
    "check_apart",
    "fingerprint",
    "inventory",
    "is_memory_backed",
    "pages",
    "seal",
    "seal_files",
]
