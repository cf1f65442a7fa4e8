"""Every GPU check of the table is the only thing that refuses some guest, and policies say all."""

from dataclasses import replace
from datetime import timedelta

import pytest
import yaml

from attestation.checks_gpu import GPU_ROWS
from attestation.errors import ConfigError, NotAffirmed
from attestation.explain import policy_sentences
from attestation.gpu.claims import GpuClaims
from attestation.gpu.evidence import GpuEvidence
from attestation.gpu.report import Kind
from attestation.policy import Policy, intel_roots
from attestation.simulator.nvidia import GPU, SWITCHES
from tests.appraisal_world import KEYSET, NOW, policy_text
from tests.gpu_world import (
    GPU_POLICY,
    SINGLE,
    SINGLE_POLICY,
    GpuWorld,
    gpu_policy,
    gpu_policy_text,
    nvidia,
    single,
)

NONCE = GpuWorld().nonce


def board(*, gpus=(GPU,) * 8, switches=SWITCHES):
    devices = [nvidia().device(s, unit=f"gpu {i}", nonce=NONCE) for i, s in enumerate(gpus)]
    devices += [nvidia().device(s, unit=f"switch {i}", nonce=NONCE) for i, s in enumerate(switches)]
    return GpuWorld(evidence=GpuEvidence(tuple(devices)))


def with_policy(base, **fields):
    return single(policy=base | fields)


ODD = replace(SINGLE, measurements=(b"\1" * 48, *SINGLE.measurements[1:]))
ONE_ALONE = {
    "gpu.count": with_policy(SINGLE_POLICY, gpus=2),
    "gpu.architecture": with_policy(SINGLE_POLICY, architectures=["blackwell"]),
    "gpu.mode": with_policy(SINGLE_POLICY, modes=["mpt"]),
    "gpu.topology": board(gpus=(replace(GPU, switch_ids=(b"elsewher",)), *[GPU] * 7)),
    "gpu.protected-pcie": with_policy(SINGLE_POLICY, protected_pcie="required"),
    "gpu.driver": with_policy(SINGLE_POLICY, drivers=["570.124.07"]),
    "gpu.vbios": with_policy(SINGLE_POLICY, vbios=["96.00.C1.00.05"]),
    "gpu.measurements": single(ODD),
}


@pytest.mark.parametrize("name", ONE_ALONE)
def test_a_check_is_the_only_one_that_refuses_some_guest(name):
    assert [check.id for check in ONE_ALONE[name].result().failed] == [name]


def test_ocsp_responses_grow_too_old_before_they_expire():
    later = NOW + timedelta(days=3)
    expected = with_policy(SINGLE_POLICY, ocsp_max_age_days=3)
    result = expected.result(now=later)
    assert [check.id for check in result.failed] == ["gpu.ocsp-age"]
    earlier = expected.result(now=NOW + timedelta(days=2, hours=22))
    assert earlier.failed == ()


def test_every_row_of_the_table_has_such_a_guest():
    assert {row.id for row in GPU_ROWS} == {*ONE_ALONE, "gpu.ocsp-age"}


@pytest.mark.parametrize(("gpus", "switches"), [(8, 0), (7, 4), (8, 3), (0, 4), (1, 4)])
def test_a_baseboard_that_is_not_whole_is_refused(gpus, switches):
    evidence = nvidia().evidence(NONCE, gpus=gpus, switches=switches)
    result = GpuWorld(evidence=evidence).result()
    assert result.code == "gpu.count"
    assert not result.failed[0].passed


@pytest.mark.parametrize(
    "world",
    [
        board(switches=(replace(SWITCHES[0], gpu_ids=SWITCHES[0].gpu_ids[:7]), *SWITCHES[1:])),
        board(switches=(replace(SWITCHES[0], gpu_ids=(b"stranger",)), *SWITCHES[1:])),
        board(switches=(replace(SWITCHES[0], switch_ids=(b"stranger",)), *SWITCHES[1:])),
        board(gpus=(*[GPU] * 7, replace(GPU, switch_ids=GPU.switch_ids[:3]))),
        board(gpus=(*[GPU] * 7, replace(GPU, switch_ids=(*GPU.switch_ids, b"stranger")))),
    ],
)
def test_a_link_that_ends_outside_the_guest_is_refused(world):
    assert [check.id for check in world.result().failed] == ["gpu.topology"]


def test_a_switch_whose_firmware_differs_is_refused():
    odd = replace(SWITCHES[3], measurements=(b"\1" * 48, *SWITCHES[3].measurements[1:]))
    world = board(switches=(*SWITCHES[:3], odd))
    (check,) = world.result().failed
    assert check.id == "gpu.measurements"
    assert check.actual.startswith("switch ")
    assert check.actual.endswith(": 0")


def test_a_device_for_which_nothing_was_compared_is_refused():
    claims = single().claims()
    empty = replace(claims.gpu[0], compared=0)
    from attestation.appraise import appraise_facts

    facts = replace(claims, gpu=(empty,))
    done = appraise_facts(facts, gpu_policy(SINGLE_POLICY), now=NOW)
    assert done.code == "gpu.measurements"


def test_a_device_without_a_word_on_its_certificates_is_refused():
    claims = single().claims()
    silent = replace(claims.gpu[0], revocation=None)
    from attestation.appraise import appraise_device

    done = appraise_device(silent, gpu_policy(SINGLE_POLICY), now=NOW)
    assert done.code == "gpu.ocsp-age"
    with pytest.raises(NotAffirmed, match=r"gpu\.count"):
        appraise_device(silent, gpu_policy("none"), now=NOW)


def test_a_switch_alone_is_asked_what_switches_can_answer():
    from attestation.appraise import appraise_device

    switch = next(d for d in GpuWorld().claims().gpu if d.kind is Kind.SWITCH)
    assert isinstance(switch, GpuClaims)
    done = appraise_device(switch, gpu_policy(), now=NOW)
    assert [check.id for check in done.checks] == ["gpu.vbios", "gpu.measurements", "gpu.ocsp-age"]
    assert done.code is None


# -- the policy file


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"gpus": 0}, "greater than"),
        ({"gpus": "8"}, "int"),
        ({"gpus": 7}, "eight GPUs and four switches"),
        ({"switches": 0}, "eight GPUs and four switches"),
        ({"modes": ["spt"]}, "only mode ppcie has switches"),
        ({"modes": ["ppcie", "mpt"]}, "only mode ppcie has switches"),
        ({"modes": []}, "names no mode"),
        ({"architectures": []}, "names no architecture"),
        ({"architectures": ["ampere"]}, "architectures"),
        ({"protected_pcie": "off"}, "protected_pcie"),
        ({"drivers": []}, "names no driver"),
        ({"vbios": []}, "names no VBIOS"),
        ({"measurements": "any"}, "measurements"),
        ({"ocsp_max_age_days": 0}, "greater than"),
        ({"ocsp_max_age_days": 365}, "less than"),
        ({"more": 1}, "unknown field"),
    ],
)
def test_what_would_weaken_the_gpu_part_does_not_load(fields, says):
    with pytest.raises(ConfigError, match="policy-invalid") as refusal:
        gpu_policy(GPU_POLICY | fields)
    assert says in refusal.value.why


@pytest.mark.parametrize("name", GPU_POLICY)
def test_every_expectation_must_be_spelled_out(name):
    fields = {key: value for key, value in GPU_POLICY.items() if key != name}
    with pytest.raises(ConfigError, match="missing"):
        gpu_policy(fields)


def test_a_simulated_policy_for_gpus_names_a_simulated_nvidia():
    with pytest.raises(ConfigError, match="its root names no NVIDIA"):
        gpu_policy(nvidia_root=False)


def test_nvidias_own_root_is_never_trusted_beside_a_test_root():
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from attestation.gpu.verify import nvidia_roots

    document = yaml.safe_load(gpu_policy_text())
    for part, der in (("device", nvidia_roots().device_der), ("rim", nvidia_roots().rim_der)):
        pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
        mixed = document | {
            "root": document["root"] | {"nvidia": document["root"]["nvidia"] | {part: pem}}
        }
        with pytest.raises(ConfigError, match="NVIDIA's own"):
            Policy.load(yaml.safe_dump(mixed).encode(), name="mixed")


def test_a_production_policy_trusts_nvidia_and_a_simulated_one_only_its_own():
    assert intel_roots().gpu is not None
    production = Policy.load(policy_text(simulated=False).encode(), name="bank")
    assert production.roots.gpu == intel_roots().gpu
    assert Policy.load(policy_text().encode(), name="bank").roots.gpu is None
    assert gpu_policy().roots.gpu == nvidia().roots


@pytest.mark.parametrize("world", [GpuWorld(), single()])
def test_a_policy_drafted_from_a_guest_accepts_its_gpus(world):
    from attestation.appraise import appraise
    from attestation.draft import Draft

    claims = world.claims()
    draft = Draft.of(
        claims.tdx.report, KEYSET, name="bank", evaluation=21, root_pem=None, gpu=claims.gpu
    )
    policy = Policy.load(draft.to_yaml().encode(), name="draft")
    assert [check.id for check in appraise(claims, policy, now=NOW).failed] == ["root.simulated"]


def test_a_policy_says_in_words_which_gpus_it_accepts():
    said = "\n".join(policy_sentences(gpu_policy().file))
    assert "gpu        8 GPUs, 4 switches: hopper" in said
    assert "gpu        OCSP responses at most 3 days old" in said
