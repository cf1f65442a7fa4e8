"""The real vLLM with sealed weights: the same tokens as with plain ones, or no engine at all."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-engine" / "bin" / "python"

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    if not PYTHON.exists():
        pytest.skip("the engine's environment is not installed (scripts/install engine)")
    directory = tmp_path_factory.mktemp("engine")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "PYTHONPATH": str(ROOT),
        "VLLM_PLUGINS": "tacit",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one import of torch instead of seven
        "HF_HUB_OFFLINE": "1",
    }
    script = Path(__file__).with_name("sealed_engine.py")
    done = subprocess.run(
        [PYTHON, script, directory], env=environment, capture_output=True, timeout=580, check=True
    )
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_sealed_weights_make_the_tokens_of_plain_ones(outcome: dict[str, object]) -> None:
    assert outcome["shards"] == 3
    assert outcome["sealed"] == outcome["plain"]
    assert outcome["asked"] == ["tiny"] * 3  # once for the load and for each of two reloads


def test_a_reload_takes_the_key_again_and_makes_the_same_tokens(
    outcome: dict[str, object],
) -> None:
    assert outcome["reloaded"] == outcome["plain"]


def test_a_reload_that_gets_no_key_leaves_the_old_weights_serving(
    outcome: dict[str, object],
) -> None:
    assert outcome["refused"] == outcome["plain"]
    assert outcome["closed"] == ["key-window"]


def test_a_tampered_shard_stops_the_load_and_the_agent_hears_why(
    outcome: dict[str, object],
) -> None:
    assert outcome["tampered"] == "LoadRefused: weights-chunk"
    assert outcome["reported"] == ["weights-chunk"]


def test_tensors_stream_unchanged_and_skipped_ones_are_never_decrypted(
    outcome: dict[str, object],
) -> None:
    assert outcome["whole"] == outcome["elsewhere"] == ["a.w same", "b.w same"]
    assert outcome["damaged"] == ["a.w same", "weights-chunk"]
    assert outcome["skipped"] == ["a.w same"]


def test_memory_is_used_again_only_when_no_tensor_of_it_is_left(
    outcome: dict[str, object],
) -> None:
    assert outcome["reused while held"] == [False, False]
    assert outcome["reused after"] == [True, True]


def test_parameters_are_touched_first_in_huge_pages_and_other_memory_is_not(
    outcome: dict[str, object],
) -> None:
    assert outcome["huge pages"] == [False, True, False]


@pytest.mark.skipif(
    "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(),
    reason="this kernel is told to give no huge pages",
)
def test_parameters_that_end_inside_a_huge_page_have_it_too(outcome: dict[str, object]) -> None:
    assert outcome["huge bytes of 48 MiB"] >= 40 << 20


def test_a_sealed_tensor_unseals_the_rows_that_are_taken_and_no_more(
    outcome: dict[str, object],
) -> None:
    said = outcome["rows of a tensor"]
    assert isinstance(said, dict)
    assert said["header"] == 1
    assert said["shape"] == ["w", 8, 1 << 20, "torch.int8"]
    # The header is in the first chunk, and shifts the rows: three lie in four chunks.
    assert said["rows"] == [4, True]
    assert said["next"] == [7, True]  # the chunk between is opened once
    assert said["same"] == [True] * 15


def test_parameters_are_filled_behind_the_asking_each_chunk_opened_once(
    outcome: dict[str, object],
) -> None:
    said = outcome["rows of a tensor"]
    assert isinstance(said, dict)
    unsealed, size = said["filled"].pop("in order")
    assert unsealed == size
    assert said["filled"] == {"with gaps": True, "backwards": True, "anyhow": True}


def test_a_parameter_that_is_damaged_is_told_before_the_load_ends(
    outcome: dict[str, object],
) -> None:
    said = outcome["rows of a tensor"]
    assert isinstance(said, dict)
    # What is no parameter may be read at once, and so was filled at once.
    assert said["behind"] == {
        "at once": True,
        "codes": ["weights-chunk", "weights-chunk"],
        "first": True,
        "damaged": 0,
        "left early": True,
    }


def test_chunks_kept_for_the_next_span_are_never_mistaken_for_others(
    outcome: dict[str, object],
) -> None:
    said = outcome["rows of a tensor"]
    assert isinstance(said, dict)
    assert said["spans"] == [True] * 240


def test_a_sealed_tensor_gives_no_damaged_byte_to_any_operation(
    outcome: dict[str, object],
) -> None:
    said = outcome["rows of a tensor"]
    assert isinstance(said, dict)
    assert said["left"] == 0  # nor any authentic one beside it
    assert said["refused"] == [
        *["weights-chunk"] * 6,
        "a sealed tensor is not written to",
        "closed",
    ]
