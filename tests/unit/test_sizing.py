"""What `tacit doctor --plan` computes is what checkpoints hold and what vLLM would allocate."""

import json
import struct
from pathlib import Path

import pytest

from attestation.errors import Malformed
from server import qwen3
from server.cli import main
from server.sizing import GIB, GPUS, plan

ROOT = Path(__file__).parents[2]
DEMO = ROOT / ".tacit" / "models" / "qwen3-demo"
H100, H200, B200 = GPUS

# Billions of parameters, and of those that are no embedding, as Qwen's model cards say them.
CARDS = {
    "Qwen3-0.6B": (0.6, 0.44),
    "Qwen3-1.7B": (1.7, 1.4),
    "Qwen3-4B": (4.0, 3.6),
    "Qwen3-8B": (8.2, 6.95),
    "Qwen3-14B": (14.8, 13.2),
    "Qwen3-32B": (32.8, 31.2),
    "Qwen3-30B-A3B": (30.5, 29.9),
    "Qwen3-235B-A22B": (235, 234),
}


@pytest.mark.parametrize("name", CARDS)
def test_a_published_model_has_the_size_of_its_card(name):
    model = qwen3.published(name)
    total, body = CARDS[name]
    assert model.parameters / 1e9 == pytest.approx(total, rel=0.015)
    embedding = model.vocabulary * model.hidden * (1 if model.tied else 2)
    assert (model.parameters - embedding) / 1e9 == pytest.approx(body, rel=0.015)


@pytest.mark.parametrize(("name", "active"), [("Qwen3-30B-A3B", 3.3), ("Qwen3-235B-A22B", 22)])
def test_the_active_part_of_a_mixture_is_that_of_its_card(name, active):
    assert qwen3.published(name).active / 1e9 == pytest.approx(active, rel=0.02)


def test_a_checkpoint_weighs_what_its_files_hold():
    if not DEMO.exists():
        pytest.skip("the demo model is not trained here (scripts/demo-model)")
    model = qwen3.from_config((DEMO / "config.json").read_bytes(), name="demo")
    held = 0
    for path in DEMO.glob("*.safetensors"):
        with path.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(size))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        held += sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in tensors)
        width = {"BF16": 2, "F32": 4}[tensors[0]["dtype"]]
    assert held == width * model.parameters


def test_a_token_of_qwen3_32b_takes_a_quarter_of_a_mebibyte():
    # 2 (K and V) x 64 layers x 8 heads x 128 numbers x 2 bytes
    assert qwen3.published("Qwen3-32B").kv_bytes(1) == 256 * 1024
    assert qwen3.published("Qwen3-32B").kv_bytes(8) == 32 * 1024


def test_fewer_kv_heads_than_gpus_are_repeated():
    model = qwen3.published("Qwen3-235B-A22B")
    assert model.kv_bytes(8) == model.kv_bytes(4) == model.kv_bytes(1) // 4
    assert 8 * model.weight_bytes(8) > 4 * model.weight_bytes(4)


@pytest.mark.parametrize("name", CARDS)
def test_fp8_halves_all_but_embeddings_norms_and_routers(name):
    whole, half = qwen3.published(name), qwen3.published(f"{name}-FP8")
    assert whole.weight_bytes(1) == 2 * whole.parameters
    assert half.parameters == whole.parameters
    embedding = 2 * whole.vocabulary * whole.hidden * (1 if whole.tied else 2)
    quantized = half.weight_bytes(1) - embedding
    assert quantized == pytest.approx((whole.weight_bytes(1) - embedding) / 2, rel=0.01)


@pytest.mark.parametrize(
    ("name", "gpu", "context", "sequences", "gpus"),
    [
        ("Qwen3-8B", H100, 40960, 1, 1),
        ("Qwen3-32B", H100, 40960, 1, 8),  # 61 GiB of weights leave little room beside them
        ("Qwen3-32B", H200, 40960, 4, 1),
        ("Qwen3-32B-FP8", H100, 32768, 4, 1),
        ("Qwen3-32B-FP8", H100, 32768, 8, 8),
        ("Qwen3-235B-A22B-FP8", H100, 32768, 8, 8),
        ("Qwen3-235B-A22B-FP8", B200, 32768, 1, 8),
        ("Qwen3-235B-A22B", H200, 40960, 16, 8),
    ],
)
def test_the_smallest_guest_that_fits_is_chosen(name, gpu, context, sequences, gpus):
    made = plan(qwen3.published(name), gpu, context=context, sequences=sequences)
    assert made.guest_gpus == gpus
    assert made.chosen.full_contexts >= sequences
    assert made.switches == (gpu.switches if gpus == 8 else 0)


def test_what_fits_nowhere_is_said_so(capsys):
    words = ["doctor", "--plan", "Qwen3-235B-A22B", "h100", "--context", "40960"]
    assert main([*words, "--sequences", "64"]) == 5
    assert "nobody attested" in capsys.readouterr().out


def test_blocks_that_cannot_be_divided_are_an_obstacle():
    assert "1216" in qwen3.published("Qwen3-4B-FP8").obstacle(8)
    assert qwen3.published("Qwen3-4B").obstacle(8) == ""
    mixture = qwen3.published("Qwen3-235B-A22B-FP8")
    assert mixture.obstacle(8) == ""  # 192 columns: cut to blocks of 64
    assert mixture.cuts_blocks(8)
    assert not mixture.cuts_blocks(4)


def test_where_blocks_divide_four_gpus_only_a_guest_has_idle_ones(capsys):
    wish = ["--context", "40960", "--sequences", "40"]
    assert main(["doctor", "--plan", "Qwen3-4B-FP8", "H100", *wish]) == 0
    assert "4 stay idle" in capsys.readouterr().out


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
@pytest.mark.parametrize("name", qwen3.NAMES)
def test_nothing_is_planned_over_a_gpu_s_memory(name, gpus):
    for gpu in GPUS:
        made = plan(qwen3.published(name), gpu, context=4096, sequences=1)
        (option,) = [o for o in made.options if o.gpus == gpus]
        used = option.weights_gib + option.kv_gib
        assert option.kv_tokens == 0 or used < gpu.memory_gib
        assert option.why_not or option.kv_tokens >= 4096


def test_json_holds_what_the_words_say(capsys):
    assert main(["doctor", "--plan", "Qwen3-32B-FP8", "H100", "--context", "32768", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["plan"]["chosen"]["gpus"] == told["plan"]["guest_gpus"] == 1
    assert told["model"]["kv_bytes_per_token"] == 262144
    assert told["plan"]["disk_gib"] == pytest.approx(
        qwen3.published("Qwen3-32B").parameters / GIB, rel=0.06
    )


@pytest.mark.parametrize("words", [["GPT", "H100"], ["Qwen3-8B", "A100"]])
def test_an_unknown_name_is_refused(words, capsys):
    assert main(["doctor", "--plan", *words]) == 2
    assert "plan-unknown" in capsys.readouterr().err


@pytest.mark.parametrize("context", ["0", "-1", "x", "99999999999", "²"])
def test_a_context_that_is_no_number_is_refused(context):
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--plan", "Qwen3-8B", "H100", "--context", context])
    assert end.value.code == 2


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "llama"},
        {"hidden_size": -1},
        {"num_hidden_layers": True},
        {"num_key_value_heads": "8"},
        {"quantization_config": {"quant_method": "awq"}},
        {"quantization_config": "fp8"},
        {"model_type": "qwen3_moe", "decoder_sparse_step": 2},
        {"model_type": "qwen3_moe"},
    ],
)
def test_another_configuration_than_qwen3_s_is_malformed(change):
    config = {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
    }
    read = qwen3.from_config(json.dumps(config).encode(), name="m")
    assert read.parameters == qwen3.published("Qwen3-0.6B").parameters
    with pytest.raises(Malformed):
        qwen3.from_config(json.dumps(config | change).encode(), name="m")
    for data in (b"", b"[]", b"{", b'"x"'):
        with pytest.raises(Malformed):
            qwen3.from_config(data, name="m")
