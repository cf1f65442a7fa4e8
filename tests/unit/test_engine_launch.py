"""The launch set: the exact command line and environment, and everything it refuses."""

from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from attestation.errors import ConfigError
from server.engine.launch import (
    FORBIDDEN,
    MODULE,
    TRUSTED_DEVICES,
    EngineSpec,
    MountedWeights,
    SealedWeights,
    argv,
    check_flags,
    environment,
    launch,
)
from server.engine.tasks import Generating, Pooling

SPEC = EngineSpec(
    python=PurePosixPath("/opt/engine/bin/python"),
    name="qwen3",
    directory=PurePosixPath("/run/tacit/engine-0"),
    weights=SealedWeights(PurePosixPath("/models/qwen3"), signer=bytes.fromhex("ab" * 32)),
    device="cpu",
    dtype="bfloat16",
    max_model_len=4096,
    max_sequences=16,
    max_queued=64,
    tensor_parallel_size=1,
    kv_cache_gib=2,
    work=Generating(reasoning=True, tool_call_parser="hermes"),
    hash_seed=7,
    run_directory=PurePosixPath("/run/tacit"),
)

GOLDEN_ARGV = [
    "/opt/engine/bin/python -s -P -m vllm.entrypoints.launchers.api_server.entry",
    "--uds /run/tacit/engine-0/engine.sock",
    "--model /run/tacit/engine-0/model",
    "--served-model-name qwen3",
    "--load-format sealed",
    "--model-loader-extra-config"
    ' {"key_socket":"/run/tacit/engine-0/keys.sock","model":"qwen3",'
    '"sealed_dir":"/models/qwen3","signer":"' + "ab" * 32 + '"}',
    "--middleware tacit_vllm.guard.Guard",
    "--dtype bfloat16",
    "--max-model-len 4096",
    "--max-num-seqs 16",
    "--max-num-queued-reqs 64",
    "--tensor-parallel-size 1",
    "--generation-config vllm",
    '--override-generation-config {"min_p":0.0,"temperature":0.6,"top_k":20,"top_p":0.95}',
    "--enable-auto-tool-choice --tool-call-parser hermes --reasoning-parser qwen3",
    '--structured-outputs-config {"backend":"xgrammar","disable_any_whitespace":true}',
    "--disable-uvicorn-access-log",
    "--uvicorn-log-level warning",
    "--disable-fastapi-docs",
    "--disable-log-stats",
    "--fingerprint-mode none",
    "--shutdown-timeout 30",
    "--enforce-eager",
]

GOLDEN_POOLING = {
    "embed": "--runner pooling --convert embed"
    ' --pooler-config {"seq_pooling_type":"LAST","use_activation":true}'
    ' --hf-overrides {"is_matryoshka":true}',
    "rerank": "--runner pooling --convert classify"
    ' --hf-overrides {"architectures":["Qwen3ForSequenceClassification"],'
    '"classifier_from_token":["no","yes"],"is_original_qwen3_reranker":true}',
}

SCRATCH = "/run/tacit/engine-0/scratch"
GOLDEN_ENVIRONMENT = {
    "HOME": SCRATCH,
    "TMPDIR": SCRATCH,
    "XDG_CACHE_HOME": f"{SCRATCH}/cache",
    "XDG_CONFIG_HOME": f"{SCRATCH}/config",
    "HF_HOME": f"{SCRATCH}/huggingface",
    "TORCHINDUCTOR_CACHE_DIR": f"{SCRATCH}/inductor",
    "TRITON_CACHE_DIR": f"{SCRATCH}/triton",
    "VLLM_CACHE_ROOT": f"{SCRATCH}/vllm",
    "VLLM_CONFIG_ROOT": f"{SCRATCH}/config/vllm",
    "VLLM_RPC_BASE_PATH": SCRATCH,
    "PATH": "/opt/engine/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONNOUSERSITE": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONHASHSEED": "7",
    "VLLM_PLUGINS": "tacit",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    "VLLM_MAX_N_SEQUENCES": "8",
    "VLLM_CPU_KVCACHE_SPACE": "2",
}


def test_the_command_line_is_exactly_the_hardened_set():
    assert " ".join(argv(SPEC)) == " ".join(GOLDEN_ARGV)


def test_the_environment_is_exactly_the_hardened_set():
    assert environment(SPEC) == GOLDEN_ENVIRONMENT


def test_a_gpu_engine_compiles_and_never_dumps_its_memory():
    spec = replace(SPEC, device="cuda", tensor_parallel_size=4)
    values = environment(spec)
    assert "--enforce-eager" not in argv(spec)
    assert "VLLM_CPU_KVCACHE_SPACE" not in values
    assert values["CUDA_ENABLE_COREDUMP_ON_EXCEPTION"] == "0"


def test_an_engine_sees_the_gpus_of_its_own_ranks_and_no_others():
    spec = replace(SPEC, device="cuda", tensor_parallel_size=2, first_gpu=4)
    assert environment(spec)["CUDA_VISIBLE_DEVICES"] == "4,5"
    assert environment(replace(spec, first_gpu=0))["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "CUDA_VISIBLE_DEVICES" not in environment(SPEC)


def test_a_model_that_does_not_reason_gets_no_reasoning_parser():
    line = argv(replace(SPEC, work=Generating(reasoning=False, tool_call_parser="hermes")))
    assert "--reasoning-parser" not in line
    assert line[line.index("--default-chat-template-kwargs") + 1] == '{"enable_thinking":false}'
    assert '"temperature":0.7' in line[line.index("--override-generation-config") + 1]


@pytest.mark.parametrize(("task", "flags"), GOLDEN_POOLING.items())
def test_an_engine_that_pools_gets_the_flags_of_its_task_and_none_of_generation(task, flags):
    generating = " ".join(GOLDEN_ARGV[12:16])
    assert generating.startswith("--generation-config")
    golden = " ".join(GOLDEN_ARGV).replace(generating, flags)
    assert " ".join(argv(replace(SPEC, work=Pooling(task)))) == golden


def test_weights_are_loaded_sealed_and_the_guard_is_outermost():
    for device in ("cpu", "cuda"):
        line = argv(replace(SPEC, device=device))
        assert line[line.index("--load-format") + 1] == "sealed"
        assert line[line.index("--middleware") + 1] == "tacit_vllm.guard.Guard"


def test_weights_on_a_volume_are_loaded_by_the_stock_loader_which_asks_for_no_key():
    mounted = replace(SPEC, weights=MountedWeights(PurePosixPath("/models/qwen3")))
    line = argv(mounted)
    assert line[line.index("--model") + 1] == "/models/qwen3"
    assert line[line.index("--load-format") + 1] == "safetensors"
    assert "--model-loader-extra-config" not in line
    assert "/models/qwen3" in launch(mounted).kept


def test_no_secret_is_on_the_command_line():
    assert "7" not in argv(SPEC)


def test_the_engine_keeps_its_own_directory_and_loses_what_attests():
    found = launch(SPEC)
    assert found.kept == ("/run/tacit/engine-0", "/models/qwen3")
    assert found.covered == ("/dev/shm", "/run/tacit")
    assert found.hidden == TRUSTED_DEVICES


@pytest.mark.parametrize("flag", sorted(FORBIDDEN))
def test_a_forbidden_flag_is_refused(flag):
    for spelling in (flag, f"{flag}=1", flag.replace("-", "_").replace("__", "--", 1), flag[:-1]):
        with pytest.raises(ConfigError) as caught:
            check_flags([*argv(SPEC), spelling])
        assert caught.value.code == "engine-flag"


@pytest.mark.parametrize("flag", ["-O3", "-tp", "--kv-events-config.publisher=zmq", "--kv_ev"])
def test_short_dotted_and_abbreviated_flags_are_refused(flag):
    with pytest.raises(ConfigError):
        check_flags((MODULE, flag))


@pytest.mark.parametrize(
    "change",
    [
        {"directory": PurePosixPath("/elsewhere/engine-0")},
        {"directory": PurePosixPath("/run/tacit")},
        {"weights": MountedWeights(PurePosixPath("models/qwen3"))},
        {"python": PurePosixPath("python")},
        {"directory": PurePosixPath("/run/tacit/" + "e" * 90)},
        {"hash_seed": 2**32},
    ],
)
def test_a_spec_that_could_not_start_or_be_contained_does_not_exist(change):
    with pytest.raises(ConfigError) as caught:
        replace(SPEC, **change)
    assert caught.value.code == "engine-path"
