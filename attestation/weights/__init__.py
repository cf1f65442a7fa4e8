"""Sealed weights on disk: seal a model's directory, open a package, unseal what the key allows."""

from attestation.weights.package import SealedModel
from attestation.weights.sealer import seal
from attestation.weights.source import Inventory, inventory
from attestation.weights.unlocked import SMALL_ROLES, UnlockedModel, Unsealing, is_memory_backed

__all__ = [
    "SMALL_ROLES",
    "Inventory",
    "SealedModel",
    "UnlockedModel",
    "Unsealing",
    "inventory",
    "is_memory_backed",
    "seal",
]
