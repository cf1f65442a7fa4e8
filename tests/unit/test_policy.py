"""A policy spells every expectation out, or it does not load."""

import hashlib
from base64 import encodebytes
from dataclasses import replace

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.draft import Draft
from attestation.errors import ConfigError
from attestation.policy import Policy, intel_roots
from attestation.policy_file import PlatformKind
from tests.appraisal_world import (
    MISSING,
    World,
    changed_policy,
    changed_text,
    intel,
    policy_text,
)

INTEL_ROOT_SHA256 = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
ZEROS = "00" * 48
HEX48 = "5a" * 48


def fields(value, path=""):
    """Name every field of a document, at every depth."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield f"{path}{name}"
            yield from fields(item, f"{path}{name}/")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from fields(item, f"{path}{index}/")


DOCUMENT = yaml.safe_load(policy_text())
FIELDS = [name for name in fields(DOCUMENT) if not name.startswith("runtime/models/")]
LISTS = [
    "tdx/tcb/accepted_statuses",
    "tdx/tcb/denied_advisories",
    "tdx/platforms",
    "tdx/module/signer",
    "tdx/module/measurement",
    "tdx/guests",
    *[f"tdx/guests/0/{name}" for name in DOCUMENT["tdx"]["guests"][0] if name != "name"],
    "runtime/config",
    "keyset/operators",
    "keyset/jurisdictions",
]
NAMES = ["keyset/audit_fields", "keyset/filters", "keyset/telemetry"]


def refusal(path, value) -> ConfigError:
    with pytest.raises(ConfigError) as refused:
        changed_policy(path, value)
    assert refused.value.code == "policy-invalid"
    return refused.value


@pytest.mark.parametrize(
    ("kind", "accepted"),
    [
        ({}, True),
        ({"sgx_types": ["standard", "scalable-with-integrity"]}, False),
        ({"dynamic": "refused"}, False),
        ({"cached_keys": "refused"}, False),
        ({"smt": "refused"}, False),
    ],
)
def test_a_policy_may_say_how_the_machine_is_built(kind, accepted):
    wanted = {"sgx_types": ["scalable"], "dynamic": "any", "cached_keys": "any", "smt": "any"}
    policy = changed_policy("tdx/platform_kind", wanted | kind)
    assert isinstance(policy.file.tdx.platform_kind, PlatformKind)
    assert policy.file.tdx.platform_kind.accepts(World().result().claims.tdx.platform) is accepted


def test_what_a_certificate_leaves_open_is_not_taken_for_no():
    kind = PlatformKind(sgx_types=("scalable",), dynamic="any", cached_keys="any", smt="refused")
    platform = World().result().claims.tdx.platform
    said = {flag: kind.accepts(replace(platform, smt=flag)) for flag in (True, False, None)}
    assert said == {True: False, False: True, None: False}
    assert not kind.accepts(replace(platform, smt=False, sgx_type=7))


def test_the_built_in_root_is_intels():
    der = intel_roots().tdx_der
    assert hashlib.sha256(der).hexdigest() == INTEL_ROOT_SHA256
    name = x509.load_der_x509_certificate(der).subject.rfc4514_string()
    assert "CN=Intel SGX Root CA" in name


@pytest.mark.parametrize("path", FIELDS)
def test_no_expectation_may_be_absent(path):
    refusal(path, MISSING)


@pytest.mark.parametrize("path", FIELDS)
def test_no_expectation_may_be_null(path):
    refusal(path, None)


@pytest.mark.parametrize("path", LISTS)
def test_an_empty_list_would_accept_any_and_does_not_load(path):
    assert "it would accept any" in refusal(path, []).why


@pytest.mark.parametrize("path", NAMES)
def test_nothing_accepted_is_written_as_a_word(path):
    assert "policy names no name; write `none`" in refusal(path, []).why
    assert "twice" in refusal(path, ["a", "a"]).why
    assert "pattern" in refusal(path, ["a b"]).why
    for word in ("any", "none", ["a", "b"]):
        assert changed_policy(path, word)


def test_a_policy_without_models_or_manifests_does_not_load():
    assert "policy names no model; it would accept any" in refusal("runtime/models", {}).why
    assert "policy names no manifest" in refusal("runtime/models", {"qwen3-demo": []}).why


def test_a_policy_without_guests_says_so():
    assert "policy names no guest; it would accept any" in refusal("tdx/guests", []).why


@pytest.mark.parametrize("path", [name for name in fields(DOCUMENT) if isinstance(name, str)])
def test_no_field_takes_a_wildcard(path):
    with pytest.raises(ConfigError):
        changed_policy(path, "*")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("version", 2, "version"),
        ("extra", 1, "unknown field"),
        ("tdx/extra", 1, "unknown field"),
        ("tdx/guests/0/mrtd", ZEROS, "nothing was measured"),
        ("tdx/guests/0/rtmr2", [HEX48, ZEROS], "nothing was measured"),
        ("tdx/guests/0/mr_owner", ZEROS, "nothing was measured"),
        ("tdx/guests/0/mrtd", "unset", "pattern"),
        ("tdx/guests/0/mrtd", "any", "pattern"),
        ("tdx/guests/0/mrtd", HEX48[:-2], "pattern"),
        ("tdx/guests/0/mrtd", HEX48.upper(), "pattern"),
        ("tdx/guests/0/mrtd", [HEX48, HEX48], "twice"),
        ("tdx/guests/0/name", "", "pattern"),
        ("tdx/td_attributes/mask", "00" * 8, "it would accept any value"),
        ("tdx/xfam/mask", "00" * 8, "it would accept any value"),
        ("tdx/td_attributes/mask", "0000001000000000", "debug"),
        ("tdx/td_attributes/mask", "feffffffffffffff", "debug"),
        ("tdx/td_attributes/value", "0100001000000000", "debug"),
        ("tdx/xfam", {"mask": "0f" * 8, "value": "ff" * 8}, "outside the mask"),
        ("tdx/xfam/mask", 1000000000000000, "quotes"),
        ("tdx/tcb/accepted_statuses", ["UpToDate", "Revoked"], "never accepted"),
        ("tdx/tcb/accepted_statuses", ["OutOfDate"], "UpToDate is not accepted"),
        ("tdx/tcb/accepted_statuses", ["uptodate"], "expected 'UpToDate'"),
        ("tdx/tcb/accepted_statuses", ["UpToDate", "UpToDate"], "twice"),
        ("tdx/tcb/grace", [{"status": "Revoked", "until": "2027-01-01T00:00:00Z"}], "never"),
        ("tdx/tcb/grace", [{"status": "UpToDate", "until": "2027-01-01T00:00:00Z"}], "both"),
        ("tdx/tcb/grace", [{"status": "OutOfDate", "until": "2027-01-01T00:00:00"}], "timezone"),
        ("tdx/tcb/grace", [{"status": "OutOfDate"}], "missing"),
        (
            "tdx/tcb/grace",
            [{"status": "OutOfDate", "until": f"2027-01-0{day}T00:00:00Z"} for day in (1, 2)],
            "two grace periods",
        ),
        ("tdx/tcb/minimum_evaluation_number", 0, "greater than"),
        ("tdx/tcb/minimum_evaluation_number", "21", "int"),
        ("tdx/tcb/collateral_max_age_days", 0, "greater than"),
        ("tdx/tcb/collateral_max_age_days", 3650, "less than"),
        ("tdx/tcb/denied_advisories", ["SA-1"], "pattern"),
        ("tdx/tcb/grace", [], "policy names no grace period; write `none`"),
        ("tdx/platforms", "none", "tdx.platforms: expected 'any'"),
        ("tdx/platforms", ["ee"], "tdx.platforms.0: string pattern"),
        ("tdx/guests/0/mrtd", 1000, "quotes"),
        ("tdx/module/signer", "any", "tdx.module.signer: expected 'intel'"),
        ("runtime/config", ["any"], "too short"),
        ("runtime/models", {"qwen3-demo": ["any"]}, "too short"),
        ("gpu", "any", "gpu: expected 'none'"),
        ("keyset/retention", "any", "expected 'none'"),
        ("keyset/training", "any", "expected 'none'"),
        ("root", "intel", "profile production goes with root intel"),
        ("profile", "production", "profile production goes with root intel"),
    ],
)
def test_what_would_weaken_a_policy_does_not_load(path, value, says):
    assert says in refusal(path, value).why


def test_two_guests_with_one_name_do_not_load():
    guest = DOCUMENT["tdx"]["guests"][0]
    other = {**guest, "mrtd": HEX48}
    assert "one name" in refusal("tdx/guests", [guest, other]).why


def test_a_production_policy_cannot_trust_a_simulator():
    text = policy_text(simulated=False)
    assert not Policy.load(text.encode(), name="p").roots.simulated
    with pytest.raises(ConfigError, match="profile production"):
        changed_policy("root", DOCUMENT["root"], text=text)


def test_a_simulated_policy_cannot_trust_intel_in_disguise():
    pem = x509.load_der_x509_certificate(intel_roots().tdx_der).public_bytes(Encoding.PEM)
    assert "is Intel's" in refusal("root", {"simulated": pem.decode()}).why


@pytest.mark.parametrize("pem", ["", "no certificate", 2])
def test_a_simulated_root_is_exactly_one_certificate(pem):
    root = intel().root_pem.decode() * pem if isinstance(pem, int) else pem
    assert refusal("root", {"simulated": root}).code == "policy-invalid"


def test_a_template_names_what_is_left_to_fill_in_and_does_not_load():
    text = Draft().to_yaml()
    with pytest.raises(ConfigError) as refused:
        Policy.load(text.encode(), name="template")
    assert refused.value.code == "policy-blank"
    assert str(text.count("FILL-IN")) in refused.value.why


def test_a_template_with_one_blank_left_does_not_load():
    with pytest.raises(ConfigError, match="policy-blank"):
        changed_policy("keyset/jurisdictions", ["FILL-IN"])


def test_a_changed_comment_is_another_policy():
    text = policy_text().encode()
    assert Policy.load(text, name="a").digest == Policy.load(text, name="b").digest
    assert Policy.load(text, name="a").digest != Policy.load(text + b"# more\n", name="a").digest


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"version: 1\nversion: 1\n", b"\xff\xfe", b"a: &a [*a]", b"- {"]
)
def test_what_is_no_policy_is_a_configuration_error(data):
    with pytest.raises(ConfigError):
        Policy.load(data, name="p")


@settings(max_examples=150)
@given(st.data())
def test_any_damage_to_a_policy_loads_as_one_or_is_a_configuration_error(data):
    text = policy_text().encode()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 40, len(text))))
    damaged = text[:start] + data.draw(st.binary(max_size=8)) + text[end:]
    try:
        policy = Policy.load(damaged, name="p")
    except ConfigError:
        return
    assert policy.roots.simulated
    assert policy.file.tdx.guests
    assert policy.file.runtime.models


def test_aliases_do_not_multiply():
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(ConfigError, match="aliases are not allowed"):
        Policy.load("\n".join(lines).encode(), name="p")


def test_a_refusal_names_the_field_and_not_its_value():
    secret = "hunter2-hunter2"
    with pytest.raises(ConfigError) as refused:
        Policy.load(changed_text("tdx/guests/0/mrtd", secret), name="p.yaml")
    assert "tdx.guests.0.mrtd" in refused.value.why
    assert secret not in str(refused.value)


def test_a_simulated_root_whose_key_is_no_point_of_its_curve_is_refused():
    """Found by fuzzing: the certificate parses, and its key only when somebody asks for it."""
    der = intel().root_der
    point = (
        intel()
        .root.certificate.public_key()
        .public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    )
    bent = der.replace(point, point[:-1] + bytes([point[-1] ^ 1]))
    pem = b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n" % encodebytes(bent)
    assert bent != der
    assert "not one PEM certificate" in str(refusal("root/simulated", pem.decode()))
