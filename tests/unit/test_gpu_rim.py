"""XML signatures are a language for attacks; every sentence outside NVIDIA's profile is refused."""

import re

import pytest

from attestation.errors import Malformed, NotAuthentic, Refusal
from attestation.gpu.chain import Proven
from attestation.gpu.rim import MAX_RIM, Rim
from attestation.simulator.nvidia import golden_of
from tests.gpu_world import NOW, SINGLE, nvidia

DRIVER = "NV_GPU_DRIVER_GH100_570.124.06"
GENUINE = nvidia().manifests(SINGLE)[DRIVER]
SIGNATURE = re.search(rb"<ds:Signature .*</ds:Signature>", GENUINE)[0]
MALFORMED, FORGED = (Malformed, "rim-malformed"), (NotAuthentic, "rim-signature")


def read(xml):
    return Rim.verify(xml, root_der=nvidia().roots.rim_der, now=NOW, proven=Proven())


def refused(xml):
    with pytest.raises(Refusal) as refusal:
        read(xml)
    return type(refusal.value), refusal.value.code


def changed(old, new, *, count=1):
    assert GENUINE.count(old) >= 1
    return GENUINE.replace(old, new, count)


def signed(golden, **options):
    options = {"product": "GH100", "version": "570.124.06"} | options
    return nvidia().manifest(golden, **options)


def test_a_manifest_is_read_as_it_was_signed():
    rim = read(GENUINE)
    assert (rim.product, rim.version) == ("GH100", "570.124.06")
    assert rim.indexes == frozenset(range(7, 40))
    assert rim.golden[0] == (7, (SINGLE.measurements[7], bytes(48)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'product="GH100"', b'product="GH200"'),
        (b'colloquialVersion="570.124.06"', b'colloquialVersion="570.124.07"'),
        (b'index="7" active="True"', b'index="7" active="False"'),
        (b'Hash1="00', b'Hash1="01'),
        (b'name="Measurement_7"', b'name="Measurement_8"'),
        (b"\n    <ns0:Payload>", b"\n     <ns0:Payload>"),
        (b"</ds:Signature></Soft", b"</ds:Signature> </Soft"),
        (b"<ds:SignedInfo>", b"<ds:SignedInfo> "),
        (b'tagId="simulated"', b'tagId="simulated" more="1"'),
        (b"<ns0:Payload>", b"<ns0:Payload>&#32;"),
    ],
)
def test_what_was_changed_after_signing_is_forged(old, new):
    assert refused(changed(old, new)) == FORGED


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # another algorithm, another reference, another transform
        (b"ecdsa-sha384", b"ecdsa-sha256"),
        (b"ecdsa-sha384", b"hmac-sha384"),
        (b"xmldsig-more#sha384", b"xmldsig-more#sha224"),
        (b"2006/12/xml-c14n11", b"2001/10/xml-exc-c14n#"),
        (b'Reference URI=""', b'Reference URI="#payload"'),
        (b'Reference URI=""', b'Reference URI="" Id="r"'),
        (b'Reference URI=""', b'Reference URI="http://example.com/"'),
        (b"xmldsig#enveloped-signature", b"xmldsig#base64"),
        (
            b"<ds:Transforms>",
            b'<ds:Transforms><ds:Transform Algorithm="http://www.w3.org/2002/06/xmldsig-filter2"/>',
        ),
        (b"</ds:SignedInfo>", b'<ds:Reference URI=""/></ds:SignedInfo>'),
        (b"<ds:SignedInfo>", b'<ds:SignedInfo Id="s">'),
        # keys and objects where NVIDIA puts none
        (b"<ds:KeyInfo>", b"<ds:KeyInfo><ds:KeyName>k</ds:KeyName>"),
        (b"</ds:KeyInfo>", b'</ds:KeyInfo><ds:Object Id="o"/>'),
        (b"<ds:X509Data>", b"<ds:X509Data><ds:X509CRL>AA==</ds:X509CRL>"),
        (b"</ds:X509Data>", b"<ds:X509Certificate>AA==</ds:X509Certificate></ds:X509Data>"),
        (b"<ds:SignatureValue>", b'<ds:SignatureValue Id="v">'),
        (b"<ds:SignatureValue>", b"<ds:SignatureValue>=="),
        (b"<ds:SignatureValue>", b"<ds:SignatureValue> "),
        # what two parsers may read differently, or what is not signed at all
        (b"<ns0:Payload>", b"<ns0:Payload><!-- unsigned -->"),
        (b"<ns0:Payload>", b"<?php ?><ns0:Payload>"),
        (b"<ns0:Payload>", b"<ns0:Payload><![CDATA[ ]]>"),
        (b"<SoftwareIdentity ", b'<!DOCTYPE s [<!ENTITY e "x">]><SoftwareIdentity '),
        (b"<SoftwareIdentity ", b'<!DOCTYPE s SYSTEM "file:///etc/passwd"><SoftwareIdentity '),
        (b"<ns0:Payload>", b"<ns0:Payload>&e;"),
        (b"<ns0:Payload>", b'<ns0:Payload xml:base="http://example.com/">'),
        (b"<ns0:Payload>", b'<ns0:Payload xml:id="payload">'),
        (b"<ns0:Payload>", b'<ns0:Payload xmlns:r="relative">'),
        (b"</SoftwareIdentity>", b""),
        (b"</SoftwareIdentity>", b"</SoftwareIdentity><more/>"),
    ],
)
def test_what_nvidia_never_writes_is_refused_before_it_is_weighed(old, new):
    assert refused(changed(old, new)) == MALFORMED


def test_a_signature_that_is_not_the_last_child_is_refused():
    moved = GENUINE.replace(SIGNATURE, b"").replace(b"<ns0:Payload>", SIGNATURE + b"<ns0:Payload>")
    assert refused(moved) == MALFORMED


def test_a_second_signature_is_refused():
    assert refused(GENUINE.replace(SIGNATURE, SIGNATURE * 2)) == MALFORMED


def test_a_manifest_without_a_signature_is_refused():
    assert refused(GENUINE.replace(SIGNATURE, b"")) == MALFORMED


def test_a_signed_manifest_wrapped_in_another_one_is_refused():
    """The wrapping attack: what is verified is not what is read."""
    inner = GENUINE.strip()
    forged = GENUINE.replace(SIGNATURE, b"").replace(b"GH100", b"GH200").strip()
    outer = forged.replace(b"</SoftwareIdentity>", inner + b"</SoftwareIdentity>")
    assert refused(outer) == MALFORMED
    beside = forged.replace(b"</SoftwareIdentity>", inner + SIGNATURE + b"</SoftwareIdentity>")
    assert refused(beside) == MALFORMED


def test_the_signature_of_another_manifest_is_refused():
    other = signed(golden_of(SINGLE, range(7)))
    theirs = re.search(rb"<ds:Signature .*</ds:Signature>", other)[0]
    assert refused(GENUINE.replace(SIGNATURE, theirs)) == FORGED


def test_a_declaration_of_the_encoding_is_accepted_and_other_encodings_are_not():
    declared = b'<?xml version="1.0" encoding="UTF-8"?>' + GENUINE
    assert read(declared).golden == read(GENUINE).golden
    assert refused(GENUINE.decode().encode("utf-16")) == MALFORMED
    assert refused(b'<?xml version="1.0" encoding="latin-1"?>' + GENUINE) == MALFORMED


def test_a_manifest_without_an_active_measurement_is_refused_although_signed():
    assert refused(signed({})) == MALFORMED


@pytest.mark.parametrize(
    ("golden", "options"),
    [
        ({7: ()}, {}),
        ({7: (bytes(48),) * 17}, {}),
        ({7: (bytes(47),)}, {}),
        ({7: (bytes(48),)}, {"product": "GH 100"}),
        ({7: (bytes(48),)}, {"version": ""}),
        ({7: (bytes(48),)}, {"version": "5" * 33}),
    ],
)
def test_a_signed_manifest_of_another_shape_is_refused(golden, options):
    assert refused(signed(golden, **options)) == MALFORMED


@pytest.mark.parametrize("xml", [b"", b"<", b"<a/>", b"text", b"<a>" * 300, b"\0", b"\xff\xfe"])
def test_what_is_not_a_manifest_is_refused(xml):
    assert refused(xml) == MALFORMED


def test_a_manifest_larger_than_any_is_not_parsed():
    assert refused(GENUINE + b" " * MAX_RIM) == (Malformed, "too-large")


def test_many_attributes_and_much_nesting_end_in_a_refusal():
    deep = b"<a>" * 20000 + b"</a>" * 20000
    wide = b"<a " + b" ".join(b'b%d="1"' % i for i in range(10000)) + b"/>"
    assert refused(deep) == MALFORMED
    assert refused(wide) == MALFORMED
