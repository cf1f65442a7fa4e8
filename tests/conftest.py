"""Fixtures that cost time: one checkpoint, one installation, one running service a session."""

from __future__ import annotations

import json
import random
import struct
from functools import cache
from pathlib import Path

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from scripts.chain.processes import ROOT, show
from tests.chain_kit import Service, World

# a busy machine is no failure: nothing here asserts wall time
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let whoever runs the soak test choose its time."""
    parser.addoption("--soak-seconds", type=int, default=1800, help="time of the soak test")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that run vLLM: together they take the longest."""
    items.sort(key=lambda item: not _runs_vllm(item.nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Keep each file in one process, and what runs vLLM in one: two engines starve each other."""
    return _ByFile(config, log)


class _ByFile(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return "vLLM" if _runs_vllm(nodeid) else nodeid.partition("::")[0]


def _runs_vllm(nodeid: str) -> bool:
    return _names_the_engine(ROOT / nodeid.partition("::")[0])


@cache
def _names_the_engine(path: Path) -> bool:
    return "pytest.mark.engine" in path.read_text()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """Return a small directory that looks like a Qwen3 checkpoint; no engine loads it."""
    directory = tmp_path_factory.mktemp("checkpoint")
    noise = random.Random(3)  # noqa: S311 - the same weights in every run
    data = noise.randbytes(5 * 1024 * 1024)
    header = json.dumps(
        {
            "lm_head.weight": {
                "dtype": "BF16",
                "shape": [len(data) // 2],
                "data_offsets": [0, len(data)],
            }
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    model = struct.pack("<Q", len(header)) + header + data
    (directory / "model.safetensors").write_bytes(model)
    config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "dtype": "bfloat16"}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "generation_config.json").write_text(json.dumps({"temperature": 0.6}))
    (directory / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE"}}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 2048}))
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    return directory


@pytest.fixture(scope="session")
def installed(tmp_path_factory, checkpoint) -> World:
    """Return an installation that boots up to its engine; tests fork it before they break it."""
    return World(tmp_path_factory.mktemp("installed") / "installation", checkpoint=checkpoint)


@pytest.fixture(scope="session")
def questions() -> dict:
    """Return what the demonstration model was trained to answer."""
    return json.loads((ROOT / "scripts/demo_model/questions.json").read_text())


@pytest.fixture(scope="session")
def demo_checkpoint() -> Path:
    """Return the demonstration checkpoint; it is trained once and kept for `scripts/up` too."""
    directory = ROOT / ".tacit" / "models" / "qwen3-demo"
    show([ROOT / "scripts/demo-model", directory])
    return directory


@pytest.fixture(scope="session")
def service(tmp_path_factory, demo_checkpoint):
    """Return a running service: software TDX, broker and gateway with the real vLLM."""
    directory = tmp_path_factory.mktemp("service") / "installation"
    with Service.running(World(directory, checkpoint=demo_checkpoint)) as running:
        yield running
