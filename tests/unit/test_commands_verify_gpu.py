"""`tacit verify gpu`: verdict, code and exit status for one device's files."""

import json
from dataclasses import replace

import pytest

from attestation.cli import run
from attestation.commands import FAMILIES
from tests.gpu_vectors import INSIDE
from tests.gpu_world import (
    GPU_POLICY,
    NOW,
    SINGLE,
    SINGLE_POLICY,
    gpu_policy_text,
    nvidia,
)
from tests.shared_data import vectors

FULL = "gpu-hopper-545-full-match"
NONCE = bytes(range(32))


def main(arguments):
    return run(arguments, families=lambda: FAMILIES)


def genuine(*more, at=INSIDE):
    return [
        "verify",
        "gpu",
        str(vectors(FULL, "report.bin")),
        "--certs",
        str(vectors(FULL, "cert_chain.pem")),
        "--at",
        str(at),
        "--json",
        *more,
    ]


def told(capsys, arguments):
    code = main(arguments)
    answer = json.loads(capsys.readouterr().out)
    return code, answer["verdict"], answer["code"], answer


def test_a_genuine_device_is_authentic_and_tells_what_was_not_given(capsys):
    rims = [f"--rim={vectors(FULL, name)}" for name in ("driver_rim.xml", "vbios_rim.xml")]
    code, verdict, _, answer = told(capsys, genuine(*rims))
    (gpu,) = answer["claims"]["gpu"]
    assert (code, verdict) == (0, "authentic")
    assert (gpu["compared"], gpu["unmatched"], len(gpu["missing"])) == (32, [], 7)
    assert answer["expires_at"] == "2025-06-22T09:38:54Z"


@pytest.mark.parametrize(
    ("more", "at", "expected"),
    [
        (["--nonce", "00" * 32], INSIDE, (4, "refused", "gpu-nonce")),
        (["--nonce", "00"], INSIDE, (3, "malformed", "field-invalid")),
        (["--rim", "driver_rim.xml"], 1751000000, (6, "undecidable", "rim-expired")),
        ([], 1600000000, (6, "undecidable", "gpu-certificate-time")),
    ],
)
def test_a_genuine_device_is_refused_for_its_reason(capsys, more, at, expected):
    more = [str(vectors(FULL, item)) if item.endswith("xml") else item for item in more]
    assert told(capsys, genuine(*more, at=at))[:3] == expected


def test_a_manifest_of_another_driver_is_refused(capsys):
    other = str(vectors("rim-driver-550", "driver_550.144.03_valid.xml"))
    answer = told(capsys, genuine("--rim", other, at=1767225600))
    assert answer[:3] == (4, "refused", "rim-mismatch")


@pytest.fixture
def files(tmp_path):
    """Write a simulated GPU's files and return the arguments that name them."""

    def write(state=SINGLE, *, policy=SINGLE_POLICY, ocsp=True):
        device = nvidia().device(state, unit="gpu 0", nonce=NONCE)
        evidence = nvidia().evidence(NONCE, gpus=1, switches=0, state=state)
        store = nvidia().endorsements(evidence, state=SINGLE)
        (tmp_path / "report").write_bytes(device.report)
        (tmp_path / "certs").write_text(device.certificates)
        (tmp_path / "policy").write_bytes(gpu_policy_text(policy))
        arguments = ["verify", "gpu", str(tmp_path / "report"), f"--certs={tmp_path / 'certs'}"]
        arguments += [f"--policy={tmp_path / 'policy'}", f"--at={NOW.isoformat()}", "--json"]
        gpu_rims = [xml for name, xml in store.rims.items() if "SWITCH" not in name]
        for kind, many in (("rim", gpu_rims), ("ocsp", store.ocsp if ocsp else ())):
            for number, data in enumerate(many):
                path = tmp_path / f"{kind}{number}"
                path.write_bytes(data)
                arguments.append(f"--{kind}={path}")
        return arguments

    return write


def test_a_simulated_device_is_affirmed_by_the_policy_and_says_simulated(capsys, files):
    code, verdict, _, answer = told(capsys, files())
    assert (code, verdict, answer["simulated"]) == (0, "affirmed", True)
    assert "gpu.measurements" in [check["id"] for check in answer["checks"]]


def test_under_a_policy_missing_ocsp_responses_decide_nothing(capsys, files):
    answer = told(capsys, files(ocsp=False))
    assert answer[:3] == (6, "undecidable", "gpu-endorsements-missing")


def test_a_device_whose_firmware_differs_is_refused_by_the_policy(capsys, files):
    other = replace(SINGLE, measurements=(bytes(47) + b"\1", *SINGLE.measurements[1:]))
    answer = told(capsys, files(other))
    assert answer[:3] == (5, "refused", "gpu.measurements")


def test_a_policy_for_guests_without_gpus_has_no_place_for_one(capsys, files):
    assert told(capsys, files(policy="none"))[:3] == (5, "refused", "gpu.count")


def test_what_is_wrong_with_a_device_is_said_in_words(capsys, files):
    arguments = [item for item in files(policy=GPU_POLICY) if item != "--json"]
    assert main(arguments) == 5
    said = capsys.readouterr().out
    assert "SIMULATED" in said
    assert "gpu.mode" in said
    assert "expected ppcie" in said
