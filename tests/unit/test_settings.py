"""One deployment file, measured with the trust files it names."""

import os
from pathlib import Path

import pytest
import yaml

from attestation.errors import ConfigError
from server.engine.tasks import Pooling
from server.settings import Settings, VerityModelSettings

EXAMPLE = (Path(__file__).parents[2] / "configs" / "simulated.yaml").read_text()


@pytest.fixture
def deployment(tmp_path):
    def write(
        text: str = EXAMPLE,
        *,
        certificate: bytes = b"cert",
        signer: bytes = b"pub",
        statements: bytes = b"key",
    ) -> Path:
        files = {
            "broker/tls.crt": certificate,
            "broker/token.pub": statements,
            "keys/model-signer.pub": signer,
        }
        for name, data in files.items():
            file = tmp_path / ".tacit" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        for name in ("device-root.pem", "rim-root.pem"):
            root = tmp_path / ".tacit" / "tdx" / "nvidia" / name
            root.parent.mkdir(parents=True, exist_ok=True)
            root.write_bytes(name.encode())
        path = tmp_path / "configs" / "simulated.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_the_example_loads(deployment):
    settings = Settings.load(deployment())
    assert settings.file.listen.port == 8443
    assert set(settings.trust) == {
        "broker.certificate",
        "broker.statement_key",
        "gpu.device",
        "gpu.rim",
        "models.qwen3-demo.signer",
    }


def test_the_authority_of_a_collector_is_measured(deployment, tmp_path):
    otlp = "  otlp: {url: https://otel.example, ca: otel.pem, interval_seconds: 15}\n"
    text = EXAMPLE.replace("telemetry:  ", "telemetry:\n" + otlp + "# ", 1)
    (tmp_path / "configs").mkdir()
    authority = tmp_path / "configs" / "otel.pem"
    authority.write_bytes(b"one")
    before = Settings.load(deployment(text))
    assert before.trust["telemetry.otlp"] == b"one"
    authority.write_bytes(b"other")
    assert Settings.load(deployment(text)).digest != before.digest


def test_a_changed_comment_changes_the_digest(deployment):
    before = Settings.load(deployment()).digest
    assert Settings.load(deployment(EXAMPLE + "# more\n")).digest != before


def test_a_swapped_trust_file_changes_the_digest(deployment):
    digests = {
        str(Settings.load(deployment()).digest),
        str(Settings.load(deployment(certificate=b"other")).digest),
        str(Settings.load(deployment(signer=b"other")).digest),
        str(Settings.load(deployment(statements=b"other")).digest),
        str(Settings.load(deployment(certificate=b"pub", signer=b"cert")).digest),
    }
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("find", "replace"),
    [
        ("version: 1", "version: 2"),
        ("profile: simulated ", "profile: production "),
        ("  port: 8443", "  port: 8443\n  port: 8444"),
        ("  port: 8443", "  port: 70000"),
        ("  port: 8443", ""),
        ("protocol: native", "protocol: kbs"),
        ("protocol: native", "protocol: none"),
        ("  protocol: native", "  session: cookie\n  protocol: native"),
        ("  statement_key: ../.tacit/broker/token.pub", ""),
        ("retry_seconds: 60", "retry_seconds: 60\n  insecure: true"),
        ("https://127.0.0.1:8444", "http://127.0.0.1:8444"),
        ("https://127.0.0.1:8444", "https://user@127.0.0.1:8444"),
        ("mode: insecure-simulated", "mode: none"),
        ("isolation: best-effort", "isolation: off"),
        ("tacit/demo/qwen3-demo", "../qwen3-demo"),
    ],
)
def test_a_file_that_says_something_else_is_refused(deployment, find, replace):
    assert find in EXAMPLE
    with pytest.raises(ConfigError):
        Settings.load(deployment(EXAMPLE.replace(find, replace)))


def test_a_missing_trust_file_is_named(deployment, tmp_path):
    path = deployment()
    (tmp_path / ".tacit/keys/model-signer.pub").unlink()
    with pytest.raises(ConfigError, match=r"model-signer\.pub"):
        Settings.load(path)


@pytest.mark.parametrize("name", ["configs/simulated.yaml", ".tacit/broker/tls.crt"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(deployment, tmp_path, name):
    path = deployment()
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match="a pipe or device, not a file") as refusal:
        Settings.load(path)
    assert refusal.value.code == "config-file-missing"


def test_a_swapped_root_of_the_gpus_changes_the_digest(deployment, tmp_path):
    path = deployment()
    before = Settings.load(path).digest
    (tmp_path / ".tacit/tdx/nvidia/rim-root.pem").write_bytes(b"other")
    assert Settings.load(path).digest != before


@pytest.mark.parametrize(
    ("device", "gpu", "why"),
    [
        ("cuda", {"mode": "nvidia"}, None),
        ("cpu", {"mode": "none"}, None),
        ("cuda", {"mode": "none"}, "gpu mode: nvidia"),
        ("cpu", "example", "simulated GPUs"),
        ("cpu", None, "gpu"),
        ("cpu", {}, "gpu"),
        ("cpu", {"mode": "nvidia", "count": 8}, "gpu"),
    ],
)
def test_production_says_what_gpus_it_has_and_simulates_none(deployment, device, gpu, why):
    document = yaml.safe_load(EXAMPLE)
    document["profile"] = "production"
    document["attestation"] = {"mode": "tdx", "endorsements": "endorsements"}
    document["models"]["qwen3-demo"]["engine"] |= {"device": device, "isolation": "required"}
    if gpu is None:
        del document["gpu"]
    elif gpu != "example":
        document["gpu"] = gpu
    path = deployment(yaml.safe_dump(document))
    if why is None:
        assert Settings.load(path).file.profile == "production"
    else:
        with pytest.raises(ConfigError, match=why):
            Settings.load(path)


OPERATOR = """
operator:
  host: 127.0.0.1
  port: 9443
  login:
    kind: mtls
    ca: ../.tacit/keys/operators.pem
    people:
      "dns:prometheus.monitoring": [metrics]
"""


def test_the_authority_of_operators_is_measured(deployment, tmp_path):
    path = deployment(EXAMPLE + OPERATOR)
    with pytest.raises(ConfigError, match=r"operators\.pem"):
        Settings.load(path)
    digests = set()
    for authority in (b"one", b"other"):
        (tmp_path / ".tacit/keys/operators.pem").write_bytes(authority)
        digests.add(str(Settings.load(path).digest))
    assert len(digests) == 2
    assert Settings.load(path).trust["operator.login"] == b"other"


@pytest.mark.parametrize(
    ("find", "replace"),
    [
        ("kind: mtls", "kind: none"),
        ("    ca: ../.tacit/keys/operators.pem\n", ""),
        ("[metrics]", "[root]"),
        ("dns:prometheus.monitoring", "prometheus"),
        ("port: 9443", "port: 9443\n  insecure: true"),
    ],
)
def test_operators_without_a_login_are_refused(deployment, tmp_path, find, replace):
    assert find in OPERATOR
    with pytest.raises(ConfigError) as caught:
        Settings.load(deployment(EXAMPLE + OPERATOR.replace(find, replace)))
    assert caught.value.code == "config-invalid"


TENANTS = """
tenants:
  demo:
    requests_per_minute: 600
    tokens_per_minute: 2048
    concurrent_requests: 4
    models: [qwen3-demo]
"""


def test_tenants_are_listed_with_all_of_their_quotas(deployment):
    file = Settings.load(deployment(EXAMPLE + TENANTS)).file
    assert file.tenants is not None
    assert file.tenants["demo"].tokens_per_minute == 2048


@pytest.mark.parametrize(
    ("find", "replace"),
    [
        ("2048", "2047"),
        ("qwen3-demo", "other"),
        ("[qwen3-demo]", "[]"),
        ("    concurrent_requests: 4\n", ""),
        ("demo:", "De mo:"),
        ("600", "0"),
    ],
)
def test_a_quota_that_could_serve_nobody_or_everybody_is_refused(deployment, find, replace):
    assert find in TENANTS
    with pytest.raises(ConfigError) as caught:
        Settings.load(deployment(EXAMPLE + TENANTS.replace(find, replace)))
    assert caught.value.code == "config-invalid"


CLIENTS = """
clients:
  tokens:
    jwks: ../.tacit/keys/jwks.json
    issuer: https://idp.example
    audience: tacit
    tenant_claim: org
    tenants: {"org-1": demo}
  certificates:
    ca: ../.tacit/keys/clients.pem
    tenants: {"dns:app.example": demo}
"""


def test_what_clients_log_in_with_is_measured(deployment, tmp_path):
    path = deployment(EXAMPLE + TENANTS + CLIENTS)
    files = [tmp_path / ".tacit/keys" / name for name in ("jwks.json", "clients.pem")]
    for file in files:
        file.write_bytes(b"one")
    digests = {str(Settings.load(path).digest)}
    for file in files:
        file.write_bytes(b"other")
        digests.add(str(Settings.load(path).digest))
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("find", "replace"),
    [
        ('"org-1": demo', '"org-1": other'),
        ('"dns:app.example": demo', '"dns:app.example": other'),
        ('{"org-1": demo}', "{}"),
        ("    issuer: https://idp.example\n", ""),
        ("dns:app", "cn:app"),
        ("tenant_claim: org", "tenant_claim: org\n    algorithms: [none]"),
    ],
)
def test_a_login_that_names_nobody_or_too_much_is_refused(deployment, find, replace):
    assert find in CLIENTS
    with pytest.raises(ConfigError) as caught:
        Settings.load(deployment(EXAMPLE + TENANTS + CLIENTS.replace(find, replace)))
    assert caught.value.code == "config-invalid"


def test_a_section_of_no_logins_is_refused(deployment):
    with pytest.raises(ConfigError):
        Settings.load(deployment(EXAMPLE + "\nclients: {}\n"))


@pytest.mark.parametrize(
    ("find", "replace"),
    [
        ("task: generate", "task: embed"),  # with keys that only a model of words has
        ("task: generate", "task: chat"),
        ("      task: generate", "      # task: generate"),
        ("      reasoning: true\n", ""),
    ],
)
def test_an_engine_has_exactly_the_keys_of_its_task(deployment, find, replace):
    assert find in EXAMPLE
    with pytest.raises(ConfigError) as refusal:
        Settings.load(deployment(EXAMPLE.replace(find, replace)))
    assert refusal.value.code == "config-invalid"


@pytest.mark.parametrize("task", ["embed", "rerank"])
def test_a_model_that_answers_in_numbers_has_no_key_about_words(deployment, task):
    lines = [line for line in EXAMPLE.splitlines() if "reasoning:" not in line]
    text = "\n".join(line for line in lines if "tool_call_parser:" not in line)
    settings = Settings.load(deployment(text.replace("task: generate", f"task: {task}")))
    (model,) = settings.file.models.values()
    assert model.engine.work == Pooling(task)


SEALED = "    sealed: ../.tacit/sealed/qwen3-demo\n"
KEY = "    key: tacit/demo/qwen3-demo\n"
VERITY = "    verity: {directory: /srv/tacit/qwen3, root_hash: " + "5a" * 32 + "}\n"


def test_weights_on_a_volume_name_its_root_hash_and_no_key(deployment):
    settings = Settings.load(deployment(EXAMPLE.replace(SEALED, VERITY).replace(KEY, "")))
    (model,) = settings.file.models.values()
    assert isinstance(model, VerityModelSettings)
    assert model.verity.root_hash == "5a" * 32


@pytest.mark.parametrize(
    ("sealed", "key"),
    [
        ("", ""),
        ("", KEY),
        (SEALED + VERITY, KEY),
        (SEALED + VERITY, ""),
        (VERITY, KEY),
        (SEALED, ""),
        (VERITY.replace("5a" * 32, "5a" * 31), ""),
        (VERITY.replace("5a" * 32, "5A" * 32), ""),
        (VERITY.replace("root_hash", "roothash"), ""),
        (VERITY.replace("directory: /srv/tacit/qwen3, ", ""), ""),
        ("    directory: /srv/tacit/qwen3\n", ""),
    ],
)
def test_weights_are_sealed_or_pinned_and_nothing_in_between(deployment, sealed, key):
    assert SEALED in EXAMPLE
    assert KEY in EXAMPLE
    with pytest.raises(ConfigError) as refusal:
        Settings.load(deployment(EXAMPLE.replace(SEALED, sealed).replace(KEY, key)))
    assert refusal.value.code == "config-invalid"


def test_models_on_gpus_share_none(deployment):
    document = yaml.safe_load(EXAMPLE)
    (model,) = document["models"].values()
    ranks = {"b": ("cuda", 4), "a": ("cuda", 2), "c": ("cpu", 1), "d": ("cuda", 1)}
    document["models"] = {
        name: model | {"engine": model["engine"] | {"device": d, "tensor_parallel_size": n}}
        for name, (d, n) in ranks.items()
    }
    file = Settings.load(deployment(yaml.safe_dump(document))).file
    assert {name: file.first_gpu(name) for name in "abd"} == {"a": 0, "b": 2, "d": 6}
