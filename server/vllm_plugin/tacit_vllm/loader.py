"""vLLM's loader of sealed weights (`--load-format sealed`): no branch of it reads an unsealed file.

It replaces two methods of vLLM's `DefaultModelLoader`, one of them private; a vLLM without them is
refused when the format is registered.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.ep_weight_filter import should_skip_weight

from attestation.codec import describe
from attestation.errors import ConfigError, Refusal
from attestation.keywire import LoaderSettings
from attestation.weights import SealedModel
from tacit_vllm import keyclient
from tacit_vllm.stream import tensors

FORMAT = "sealed"
_REPLACED = ("download_model", "_get_weights_iterator")


class LoadRefused(RuntimeError):
    """The weights were not loaded; the text is a code of `attestation.codes` and nothing else."""


class SealedLoader(DefaultModelLoader):  # type: ignore[misc]
    """Streams tensors out of a sealed package with a key from the key agent, once per load."""

    def __init__(self, load_config: LoadConfig) -> None:
        # vLLM constructs loaders more than once: no key and no file is touched here.
        super().__init__(dataclasses.replace(load_config, model_loader_extra_config={}))
        self.load_config = load_config
        try:
            extra = load_config.model_loader_extra_config
            self._settings = LoaderSettings.model_validate(extra)
        except ValidationError as error:
            raise ConfigError("loader-config", describe(LoaderSettings, error)) from None

    def download_model(self, model_config: Any) -> None:
        """Do nothing: the package is there or it is not."""

    def _get_weights_iterator(self, source: Any) -> Generator[tuple[str, torch.Tensor], None, None]:
        self.counter_before_loading_weights = time.perf_counter()
        try:
            yield from self._unseal(source)
        except (Refusal, ConfigError) as refusal:
            with suppress(Refusal):
                keyclient.report(self._settings, refusal.code)
            raise LoadRefused(refusal.code) from None

    def _unseal(self, source: Any) -> Generator[tuple[str, torch.Tensor], None, None]:
        if source.subfolder or source.allow_patterns_overrides or source.prefix:
            raise ConfigError("loader-unsupported", "a model whose weights have several sources")
        signer = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self._settings.signer))
        package = SealedModel.open(Path(self._settings.sealed_dir), signer=signer)
        grant = keyclient.fetch(self._settings)
        workers = max(2, min(8, len(os.sched_getaffinity(0))))
        with package.unlock(
            grant.key,
            manifest=grant.manifest,
            minimum_version=grant.minimum_version,
            workers=workers,
        ) as model:
            yield from tensors(model, skip=lambda n: should_skip_weight(n, self.local_expert_ids))


def register_sealed() -> None:
    """Make `sealed` a load format of this process; vLLM lower-cases the name it is given."""
    from vllm.model_executor import model_loader  # noqa: PLC0415 - the registry is its own

    if not all(hasattr(DefaultModelLoader, name) for name in _REPLACED):
        raise RuntimeError("this vLLM loads weights in a way the plug-in does not know")
    if model_loader._LOAD_FORMAT_TO_MODEL_LOADER.get(FORMAT) is not SealedLoader:  # noqa: SLF001
        register_model_loader(FORMAT)(SealedLoader)
