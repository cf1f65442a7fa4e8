"""Golden measurements and a signer in; a manifest signed as NVIDIA's are out."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree

from attestation.simulator.nvidia_pki import raw_signature

_TAG = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_BODY = """\
<SoftwareIdentity xmlns="{tag}" xmlns:ns0="{tag}" xmlns:ns2="http://www.w3.org/2001/04/\
xmlenc#sha384" corpus="false" name="{product}" tagId="simulated" version="1.0">
    <ns0:Entity name="Simulated Corporation" role="softwareCreator tagCreator"/>
    <ns0:Meta colloquialVersion="{version}" edition="{edition}" product="{product}"/>
    <ns0:Payload>
{resources}
    </ns0:Payload>
{signature}</SoftwareIdentity>
"""
_RESOURCE = (
    '        <ns0:Resource type="Measurement" index="{index}" active="{active}" '
    'alternatives="{count}"{hashes} name="Measurement_{index}" size="48"/>'
)
_C14N = "http://www.w3.org/2006/12/xml-c14n11"
_MORE = "http://www.w3.org/2001/04/xmldsig-more"
_SIGNATURE = (
    '<ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#"><ds:SignedInfo>'
    f'<ds:CanonicalizationMethod Algorithm="{_C14N}"/>'
    f'<ds:SignatureMethod Algorithm="{_MORE}#ecdsa-sha384"/><ds:Reference URI=""><ds:Transforms>'
    '<ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>'
    f'<ds:Transform Algorithm="{_C14N}"/></ds:Transforms>'
    f'<ds:DigestMethod Algorithm="{_MORE}#sha384"/>'
    "<ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
    "<ds:SignatureValue>{value}</ds:SignatureValue><ds:KeyInfo><ds:X509Data>{certificates}"
    "</ds:X509Data></ds:KeyInfo></ds:Signature>"
)

Golden = Mapping[int, Sequence[bytes]]
"""Accepted values of the active measurements, by index."""


def manifest(
    golden: Golden,
    *,
    product: str,
    version: str,
    key: ec.EllipticCurvePrivateKey,
    certificates: Sequence[x509.Certificate],
    size: int = 64,
) -> bytes:
    """Return the XML, enveloped signature included; indexes that `golden` lacks are inactive."""
    fields = {
        "tag": _TAG,
        "product": product,
        "version": version,
        "edition": "SWITCH" if product.startswith("LS") else "GPU",
        "resources": "\n".join(_resource(index, golden.get(index)) for index in range(size)),
    }
    bare = etree.fromstring(_BODY.format(signature="", **fields).encode())
    digest = hashlib.sha384(etree.tostring(bare, method="c14n")).digest()
    chain = "".join(
        f"<ds:X509Certificate>{_base64(item.public_bytes(Encoding.DER))}</ds:X509Certificate>"
        for item in certificates
    )
    parts = {"digest": _base64(digest), "certificates": chain}
    unsigned = _BODY.format(signature=_SIGNATURE.format(value="", **parts), **fields)
    info = etree.fromstring(unsigned.encode())[-1][0]
    value = _base64(raw_signature(key, etree.tostring(info, method="c14n")))
    return _BODY.format(signature=_SIGNATURE.format(value=value, **parts), **fields).encode()


def _resource(index: int, values: Sequence[bytes] | None) -> str:
    accepted = [bytes(48)] if values is None else values
    hashes = "".join(f' ns2:Hash{i}="{value.hex()}"' for i, value in enumerate(accepted))
    return _RESOURCE.format(
        index=index, active=values is not None, count=len(accepted), hashes=hashes
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
