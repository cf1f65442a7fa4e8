"""vLLM's loader of sealed weights (`--load-format sealed`): no branch of it reads an unsealed file.

It replaces methods of vLLM's `DefaultModelLoader`, one of them private; a vLLM without them is
refused when the format is registered.

The key agent gives a rank the key once, and the loader keeps none. A reload therefore asks again,
before vLLM touches a weight: our agent closed its window when the engine was ready and refuses, and
the engine serves on with the weights it has.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError
from vllm.config.load import LoadConfig
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.ep_weight_filter import should_skip_weight

from attestation.codec import describe
from attestation.errors import ConfigError, Refusal
from attestation.keywire import LoaderSettings
from attestation.weights import SealedModel, UnlockedModel, pages
from tacit_vllm import keyclient
from tacit_vllm.behind import Behind
from tacit_vllm.chunks import AHEAD, Chunks
from tacit_vllm.huge_pages import take_huge_pages
from tacit_vllm.rows import Rows
from tacit_vllm.stream import pinned, tensors

FORMAT = "sealed"
_READ = frozenset({"qwen3"})
"""Model types whose loading in vLLM was read through: it reads no parameter that it has filled.
Others do (`composed_weight_loader`), and experts of a mixture are not copied out of our tensors."""
_REPLACED = ("download_model", "load_weights", "get_all_weights", "_get_weights_iterator")

Weights = Iterator[tuple[str, torch.Tensor]]

log = logging.getLogger("tacit.loader")


class LoadRefused(RuntimeError):
    """The weights were not loaded; the text is a code of `attestation.codes` and nothing else."""


class SealedLoader(DefaultModelLoader):  # type: ignore[misc]
    """Streams tensors out of a sealed package with a key from the key agent, once per load."""

    def __init__(self, load_config: LoadConfig) -> None:
        # vLLM constructs loaders more than once: no key and no file is touched here.
        super().__init__(dataclasses.replace(load_config, model_loader_extra_config={}))
        self.load_config = load_config
        self._first = False
        self._behind: Behind | None = None
        try:
            extra = load_config.model_loader_extra_config
            self._settings = LoaderSettings.model_validate(extra)
        except ValidationError as error:
            raise ConfigError("loader-config", describe(LoaderSettings, error)) from None

    def download_model(self, model_config: Any) -> None:
        """Do nothing: the package is there or it is not."""

    def load_weights(self, model: torch.nn.Module, model_config: Any) -> None:
        """Load for the first time: what a parameter takes is unsealed when it takes it."""
        # A reload keeps tensors back and counts them first; it gets them whole.
        self._first = True
        take_huge_pages(model.parameters())
        super().load_weights(model, model_config)
        if self._behind is not None:  # filled already; a refusal while vLLM let go is told here
            with self._refusing():
                self._behind.finish()

    def get_all_weights(self, model_config: Any, model: torch.nn.Module) -> Weights:
        """Open the package and fetch the key now; what is returned unseals as it is used.

        Raises `LoadRefused` before anything of `model` has changed.
        """
        self.counter_before_loading_weights = time.perf_counter()
        sources = getattr(model, "secondary_weights", ())
        with self._refusing():
            if sources or getattr(model, "allow_patterns_overrides", None):
                raise ConfigError(
                    "loader-unsupported", "a model whose weights have several sources"
                )
            signer = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self._settings.signer))
            package = SealedModel.open(Path(self._settings.sealed_dir), signer=signer)
            grant = keyclient.fetch(self._settings)
            unlocked = package.unlock(
                grant.key,
                manifest=grant.manifest,
                minimum_version=grant.minimum_version,
                workers=max(2, min(8, len(os.sched_getaffinity(0)))),
            )
        # What quantizes while it loads reads the parameters that it has just filled.
        late = model_config.quantization is None and model_config.hf_config.model_type in _READ
        return self._unseal(unlocked, model, late=late)

    def _get_weights_iterator(self, source: Any) -> Weights:  # noqa: ARG002 - vLLM's signature
        """Refuse: this is how the replaced loader reads unsealed files."""
        raise LoadRefused("loader-unsupported")

    def _unseal(self, unlocked: UnlockedModel, target: torch.nn.Module, *, late: bool) -> Weights:
        """Yield tensors: whole ones for a GPU that takes all of them, else such that unseal late.

        Among several ranks nothing is read ahead, for the rows that follow are another rank's. A
        rank alone reads ahead, or unseals behind: when it is known where all of a chunk goes.
        """
        alone, on_gpu = get_tensor_model_parallel_world_size() == 1, _on_gpu(target)
        with self._refusing(), unlocked as model:
            if not self._first or (alone and on_gpu):
                memory = pinned if on_gpu else pages
                yield from tensors(model, skip=self._skip, memory=memory)
                return
            chunks = Chunks(model, ahead=AHEAD if alone and not late else 0)
            behind = self._behind = Behind(model) if alone and late else None
            parameters = (*target.parameters(), *target.buffers())
            # the memory is held with its address, which would else be given out again
            held = {m.data_ptr(): m for m in (one.untyped_storage() for one in parameters)}
            rows = Rows(chunks, refusing=self._refusing, behind=behind, targets=held)
            yield from rows.tensors(skip=self._skip)
            unsealed = chunks.unsealed + (0 if behind is None else behind.unsealed)
            whole = sum(file.size for file in model.manifest.files if file.role == "weights")
            log.info("unsealed %d bytes, the weights have %d", unsealed, whole)

    def _skip(self, name: str) -> bool:
        return bool(should_skip_weight(name, self.local_expert_ids))

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Tell the agent why nothing was loaded, and vLLM no more than the code."""
        try:
            yield
        except (Refusal, ConfigError) as refusal:
            with suppress(Refusal):
                keyclient.report(self._settings, refusal.code)
            raise LoadRefused(refusal.code) from None


def _on_gpu(model: torch.nn.Module) -> bool:
    return any(parameter.device.type == "cuda" for parameter in model.parameters())


def register_sealed() -> None:
    """Make `sealed` a load format of this process; vLLM lower-cases the name it is given."""
    from vllm.model_executor import model_loader  # noqa: PLC0415 - the registry is its own

    if not all(hasattr(DefaultModelLoader, name) for name in _REPLACED):
        raise RuntimeError("this vLLM loads weights in a way the plug-in does not know")
    if model_loader._LOAD_FORMAT_TO_MODEL_LOADER.get(FORMAT) is not SealedLoader:  # noqa: SLF001
        register_model_loader(FORMAT)(SealedLoader)
