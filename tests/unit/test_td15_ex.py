"""Quotes of body type 4 (TD 1.5ex): read, verified, and refused for what no policy can name."""

import json
import random
from dataclasses import fields, replace

import dcap_qvl
import pytest

from attestation.commands.inspect import quote_fields
from attestation.errors import Malformed, NotAffirmed, Refusal
from attestation.explain import sentences, tdx_json
from attestation.simulator.guest import LAUNCH, SoftwareGuest
from attestation.tdx.claims import TdExtension
from attestation.tdx.framing import QuoteFrame
from attestation.tdx.layout import BODY_SIZES, V4, V5, claimed_body, decode_report, encode_report
from attestation.tdx.quote import verify_quote
from tests.appraisal_world import World
from tests.simulated_tdx import NOW, mock_intel

INTEL = mock_intel()
COLLATERAL = INTEL.collateral(NOW)
ALONE = TdExtension(vmid=0, td_id=bytes(range(32)))
FULL = TdExtension(
    3, *(bytes([n]) * s for n, s in enumerate((32, 48, 48, 8, 16, 16, 12, 48, 8), 1))
)
REFUSED = {field.name: "tdx-service-td" for field in fields(TdExtension)} | {
    "vmid": "tdx-partition",
    "dev_info": "tdx-devices",
}


def report(extension=ALONE, **changed):
    svn = LAUNCH.tee_tcb_svn
    return replace(LAUNCH, tee_tcb_svn2=svn, extension=extension, **changed)


def verified(quote):
    return verify_quote(quote, COLLATERAL, root_der=INTEL.root_der, now=NOW)


def test_a_quote_of_a_td_alone_verifies_and_says_its_id():
    quote = INTEL.quote(report(), header=V5)
    claims = verified(quote)
    assert (claims.quote_version, claims.report) == (5, report())
    assert quote_fields(quote)["td_id"] == tdx_json(claims)["td_id"] == bytes(range(32)).hex()


@pytest.mark.parametrize("name", sorted(set(REFUSED) - {"td_id"}))
def test_what_no_policy_can_name_is_refused(name):
    changed = replace(ALONE, **{name: getattr(FULL, name)})
    with pytest.raises(NotAffirmed) as refused:
        verified(INTEL.quote(report(changed), header=V5))
    assert refused.value.code == REFUSED[name]


@pytest.mark.parametrize("name", sorted(set(REFUSED) - {"td_id", "vmid"}))
@pytest.mark.parametrize("at", [0, -1])
def test_a_single_bit_at_either_end_of_such_a_field_is_refused(name, at):
    value = bytearray(len(getattr(FULL, name)))
    value[at] = 0x80
    with pytest.raises(NotAffirmed) as refused:
        verified(INTEL.quote(report(replace(ALONE, **{name: bytes(value)})), header=V5))
    assert refused.value.code == REFUSED[name]


def test_it_survives_the_way_through_a_quote():
    assert decode_report(claimed_body(INTEL.quote(report(FULL), header=V5))) == report(FULL)


@pytest.mark.parametrize("extension", [None, ALONE], ids=["td15", "td15ex"])
def test_the_report_we_read_is_the_one_the_library_verified(extension):
    quote = INTEL.quote(report(extension, report_data=bytes(range(64))), header=V5)
    seconds = int(NOW.timestamp())
    endorsed = dcap_qvl.QuoteCollateralV3.from_json(COLLATERAL.decode())
    stated = dcap_qvl.verify_with_root_ca(quote, endorsed, INTEL.root_der, seconds).to_json()
    ((_, body),) = json.loads(stated)["report"].items()
    flat = {}
    while "base" in body:
        flat, body = {**body, **flat}, body["base"]
    flat |= body
    ours = verified(quote).report
    names = {"mr_td": ours.mrtd, **{f"rt_mr{n}": value for n, value in enumerate(ours.rtmrs)}}
    for name, value in flat.items():
        if name in ("base", "vmid"):
            continue
        holder = ours if hasattr(ours, name) else ours.extension
        mine = names[name] if name in names else getattr(holder, name)
        assert mine.hex() == value, name


def test_no_flipped_bit_of_the_body_is_accepted():
    quote = INTEL.quote(report(), header=V5)
    size = 8 * (48 + 6 + BODY_SIZES[4])
    for bit in random.Random(4).sample(range(size), 200):  # noqa: S311 - not a secret
        damaged = bytearray(quote)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Refusal):
            verified(bytes(damaged))


def test_a_body_that_is_cut_or_of_another_size_is_malformed():
    quote = INTEL.quote(report(), header=V5)
    for damaged in (quote[: 54 + 884], quote[:50] + (884).to_bytes(4, "little") + quote[54:]):
        with pytest.raises(Malformed):
            _ = QuoteFrame.parse(damaged).pck_chain


@pytest.mark.parametrize("changed", [{"dev_info": bytes(47)}, {"td_id": bytes(33)}])
def test_an_extension_is_never_padded_or_cut(changed):
    with pytest.raises(Malformed):
        encode_report(report(replace(ALONE, **changed)))


def test_an_extension_needs_the_body_it_extends():
    with pytest.raises(Malformed):
        encode_report(replace(LAUNCH, extension=ALONE))
    with pytest.raises(Refusal):  # a version 4 quote has no descriptor to say so
        verified(INTEL.quote(report(), header=V4))


def test_a_guest_of_this_kind_is_affirmed_and_explained():
    launch = {
        "header": V5,
        "measurements": {"tee_tcb_svn2": LAUNCH.tee_tcb_svn, "extension": ALONE},
    }
    result = World(launch=launch).result()
    assert result.failed == ()

    told = "\n".join(sentences(result.claims, guest=result.guest))
    assert f"TD {bytes(range(8)).hex()}…" in told
    assert SoftwareGuest(INTEL, **launch).report.extension == ALONE
