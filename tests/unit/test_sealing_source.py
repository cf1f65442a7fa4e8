"""What of a model's directory is sealed, and what is refused before a byte is encrypted."""

import json
import os
from pathlib import Path

import pytest

from attestation.errors import ConfigError, Malformed
from attestation.weights import inventory
from tests.sealed_world import safetensors, write_model

INDEX = "model.safetensors.index.json"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", shard_bytes=100)


def refused(model: Path) -> str:
    with pytest.raises(ConfigError) as refusal:
        inventory(model)
    return refusal.value.code


def test_every_file_has_its_role(model: Path) -> None:
    (model / "LICENSE").write_text("Apache-2.0")
    (model / "README.md").write_text("#")
    (model / "generation_config.json").write_text("{}")
    (model / "tokenizer.model").write_text("")
    roles = {file.path: file.role for file in inventory(model).files}
    assert roles == {
        "LICENSE": "other",
        "README.md": "other",
        "chat_template.jinja": "template",
        "config.json": "config",
        "generation_config.json": "config",
        "merges.txt": "tokenizer",
        "model-00001-of-00002.safetensors": "weights",
        "model-00002-of-00002.safetensors": "weights",
        INDEX: "other",
        "tokenizer.json": "tokenizer",
        "tokenizer.model": "tokenizer",
    }


def test_hidden_files_are_left_out_and_reported(model: Path) -> None:
    (model / ".gitattributes").write_text("")
    (model / ".cache").mkdir()
    listed = inventory(model)
    assert listed.skipped == (".cache", ".gitattributes")
    assert not any(file.path.startswith(".") for file in listed.files)


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "model.pt", "a.pth", "b.pkl", "modeling_qwen.py", "x.gguf", "y.ckpt",
     "optimizer", "tokenizer.pickle", "z.so", "training_args.bin"],
)  # fmt: skip
def test_pickles_code_and_unknown_kinds_are_never_sealed(model: Path, name: str) -> None:
    (model / name).write_bytes(b"x")
    assert refused(model) == "seal-format"


def test_a_link_out_of_the_directory_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (model / "more.json").symlink_to(tmp_path / "secret.json")
    assert refused(model) == "seal-source"


def test_a_link_within_the_directory_is_followed(model: Path) -> None:
    (model / "generation_config.json").symlink_to("config.json")
    assert "generation_config.json" in {file.path for file in inventory(model).files}


def test_a_pipe_is_refused(model: Path) -> None:
    os.mkfifo(model / "more.json")
    assert refused(model) == "seal-source"


def test_a_name_that_no_manifest_may_hold_is_refused(model: Path) -> None:
    (model / "more files.json").write_text("{}")
    assert refused(model) == "seal-source"


def test_a_shard_the_index_does_not_name_is_refused(model: Path) -> None:
    (model / "consolidated.safetensors").write_bytes(safetensors({"c.w": b"1"}))
    assert refused(model) == "seal-index"


def test_a_shard_the_index_names_must_be_there(model: Path) -> None:
    (model / "model-00002-of-00002.safetensors").unlink()
    assert refused(model) == "seal-index"


def test_a_tensor_in_another_shard_than_the_index_says_is_refused(model: Path) -> None:
    index = json.loads((model / INDEX).read_bytes())
    names = list(index["weight_map"])
    shards = [index["weight_map"][name] for name in names]
    index["weight_map"] = dict(zip(names, reversed(shards), strict=True))
    (model / INDEX).write_text(json.dumps(index))
    assert refused(model) == "seal-index"


def test_several_shards_need_an_index(model: Path) -> None:
    (model / INDEX).unlink()
    assert refused(model) == "seal-index"


def test_a_tensor_in_two_shards_is_refused(model: Path) -> None:
    shard = model / "model-00001-of-00002.safetensors"
    (model / "model-00002-of-00002.safetensors").write_bytes(shard.read_bytes())
    assert refused(model) == "seal-index"


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert refused(tmp_path) == "seal-source"


def test_what_only_calls_itself_safetensors_is_refused(model: Path) -> None:
    (model / "model-00001-of-00002.safetensors").write_bytes(b"\x80\x04N." * 10)
    with pytest.raises(Malformed) as refusal:
        inventory(model)
    assert refusal.value.code == "safetensors-header"
