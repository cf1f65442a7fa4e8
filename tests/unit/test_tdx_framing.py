import json
import struct
from dataclasses import replace

import pytest

from attestation.errors import Malformed
from attestation.simulator.guest import LAUNCH
from attestation.tdx.causes import refusal_for
from attestation.tdx.claims import TdExtension
from attestation.tdx.collateral import Endorsed, instant
from attestation.tdx.framing import MAX_QUOTE, QuoteFrame
from attestation.tdx.layout import V4, V5
from tests.simulated_tdx import NOW, mock_intel

INTEL = mock_intel()
QUOTE = INTEL.quote(LAUNCH, trailing=b"")
V5_QUOTE = INTEL.quote(LAUNCH, header=V5, trailing=b"")
SIGNATURE = 48 + 584
INNER = SIGNATURE + 4 + 128


def refused(code, quote):
    with pytest.raises(Malformed) as refusal:
        _ = QuoteFrame.parse(quote).pck_chain
    assert refusal.value.code == code


def patched(at, layout, value, quote=QUOTE):
    packed = struct.pack(layout, value)
    return quote[:at] + packed + quote[at + len(packed) :]


def test_a_quote_carries_leaf_authority_and_root():
    frame = QuoteFrame.parse(QUOTE)
    assert frame.version == 4
    assert frame.pck_chain[2] == INTEL.root_der


def test_a_quote_of_version_5_says_what_its_body_is():
    assert QuoteFrame.parse(V5_QUOTE).version == 5


@pytest.mark.parametrize(
    ("header", "changes", "body", "signature"),
    [
        (V4, {}, 48, 632),
        (V5, {}, 54, 638),
        (V5, {"tee_tcb_svn2": LAUNCH.tee_tcb_svn}, 54, 702),
        (V5, {"tee_tcb_svn2": LAUNCH.tee_tcb_svn, "extension": TdExtension(0, bytes(32))}, 54, 939),
    ],
)
def test_what_lasts_is_all_but_report_data_and_the_signature(header, changes, body, signature):
    launch = replace(LAUNCH, report_data=bytes([7] * 64), **changes)
    quote = INTEL.quote(launch, header=header, trailing=b"")
    bound, sealed = slice(body + 520, body + 584), slice(signature + 4, signature + 68)
    assert quote[bound] == launch.report_data
    assert int.from_bytes(quote[signature : signature + 4], "little") == len(quote[sealed.start :])
    lasting = quote[: bound.start] + quote[bound.stop : sealed.start] + quote[sealed.stop :]
    assert QuoteFrame.parse(quote).lasting == lasting
    assert QuoteFrame.parse(quote + bytes(9)).lasting == lasting


@pytest.mark.parametrize("zeros", [1, 70, 3065])
def test_zeros_may_follow(zeros):
    assert QuoteFrame.parse(QUOTE + bytes(zeros)) == QuoteFrame.parse(QUOTE)


def test_anything_but_zeros_may_not_follow():
    refused("quote-malformed", QUOTE + bytes(69) + b"\x01")


def test_a_quote_beyond_the_guests_buffer_is_refused():
    refused("too-large", QUOTE.ljust(MAX_QUOTE + 1, b"\0"))


@pytest.mark.parametrize("head", [b"\xd8\x3d\x84", b"\xd2\x84\x43", b"\xa1\x01\x26", b"\x84\x44"])
def test_a_cbor_web_token_is_named_as_such(head):
    refused("quote-unsupported", head + bytes(8000))


@pytest.mark.parametrize("quote", [b"", bytes(47), bytes(48), b"quote" * 100])
def test_garbage_is_refused(quote):
    refused("quote-malformed", quote)


@pytest.mark.parametrize("size", [48, 600, SIGNATURE, SIGNATURE + 3, INNER, INNER + 6, 2000])
def test_a_cut_quote_is_refused(size):
    with pytest.raises(Malformed):
        QuoteFrame.parse(QUOTE[:size])


@pytest.mark.parametrize("change", [-1, 1, 0xFFFF])
@pytest.mark.parametrize(
    ("at", "layout"), [(SIGNATURE, "<I"), (INNER + 2, "<I"), (INNER + 6 + 448 + 34 + 2, "<I")]
)
def test_a_length_that_lies_is_refused(at, layout, change):
    (true,) = struct.unpack_from(layout, QUOTE, at)
    with pytest.raises(Malformed):
        _ = QuoteFrame.parse(patched(at, layout, true + change)).pck_chain


def test_a_length_of_four_gigabytes_is_refused():
    refused("quote-malformed", patched(SIGNATURE, "<I", 0xFFFFFFFF))


@pytest.mark.parametrize("at", [INNER, INNER + 6 + 448 + 34])
def test_another_kind_of_certification_is_named(at):
    refused("quote-unsupported", patched(at, "<H", 7))


@pytest.mark.parametrize("kind", [0, 1, 5])
def test_a_body_that_is_no_td_report_we_can_judge_is_named(kind):
    refused("quote-unsupported", patched(48, "<H", kind, V5_QUOTE))


def test_a_body_whose_size_is_not_its_types_is_refused():
    refused("quote-malformed", patched(50, "<I", 648, V5_QUOTE))


def collateral(**changed):
    return json.dumps(json.loads(INTEL.collateral()) | changed).encode()


@pytest.mark.parametrize(
    "changed",
    [
        {"unknown": ""},
        {"root_ca_crl": ""},
        {"root_ca_crl": "abc"},
        {"pck_crl": "AB"},
        {"tcb_info_signature": "ab" * 63},
        {"qe_identity_signature": 7},
        {"pck_crl_issuer_chain": ""},
        {"tcb_info_issuer_chain": "ü"},
        {"tcb_info": None},
        {"tcb_info_issuer_chain": INTEL.root.pem},
    ],
)
def test_collateral_of_another_shape_is_refused(changed):
    with pytest.raises(Malformed):
        Endorsed.parse(collateral(**changed))


def test_genuine_collateral_is_parsed():
    sent = Endorsed.parse(collateral())
    assert sent.tcb_info_chain == sent.qe_identity_chain
    assert sent.pck_crl_chain[1] == INTEL.root_der


@pytest.mark.parametrize("text", ["2026-11-25", "2026-11-25T00:00:00", "yesterday", None, 7])
def test_a_date_that_is_no_instant_is_refused(text):
    with pytest.raises(Malformed) as refusal:
        instant(text, what="issueDate")
    assert refusal.value.code == "collateral-malformed"


@pytest.mark.parametrize(
    "text", ["2026-11-25T12:00:00Z", "2026-11-25T12:00:00.000+00:00", "2026-11-25T13:00:00+01:00"]
)
def test_dates_are_compared_as_instants_not_as_text(text):
    assert instant(text, what="issueDate") == NOW


def test_a_cause_without_a_name_is_still_a_refusal_and_is_not_quoted():
    refusal = refusal_for("something new: secret")
    assert refusal.code == "tdx-refused"
    assert "secret" not in str(refusal)


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        ("Failed to parse QE Identity leaf certificate", "collateral-malformed"),
        ("Failed to parse TCB Info leaf certificate", "collateral-malformed"),
        ("Failed to verify certificate chain Caused by: CertRevoked", "tdx-revoked"),
        ("Failed to verify certificate chain Caused by: UnknownIssuer", "tdx-chain"),
        ("Failed to verify certificate chain Caused by: UnknownRevocationStatus", "tdx-chain"),
        ("QE report validation failed Caused by: Debug mode is enabled", "tdx-quoting-enclave"),
        ("Debug mode is enabled", "tdx-debug"),
        ("QE ISVSVN 0 is below minimum required 4 from QE Identity", "tcb-unknown"),
        ("QE ISVPRODID mismatch: expected 2, got 1", "tdx-quoting-enclave"),
        ("Failed to decode TcbInfo\n\nCaused by: `Debug mode`", "collateral-malformed"),
        ("Invalid TCB level tcbDate", "collateral-malformed"),
        ("Invalid TDX module tcbDate", "collateral-malformed"),
        ("Signature is invalid for qe_identity in quote_collateral", "collateral-signature"),
        ("Signature is invalid for qe_report in quote", "tdx-signature"),
    ],
)
def test_the_first_thing_a_cause_names_is_what_a_reader_is_told(cause, code):
    assert refusal_for(cause).code == code
