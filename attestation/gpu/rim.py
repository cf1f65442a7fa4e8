"""A reference integrity manifest in; golden measurements that NVIDIA signed out.

NVIDIA's manifests are SWID tags (ISO/IEC 19770-2) with an XML signature. XML-DSig as a whole is a
language for attacks, so only NVIDIA's one use of it is accepted: a single enveloped signature, last
child of the root, over the whole document, Canonical XML 1.1, SHA-384, ECDSA P-384, four
certificates inside. What is read afterwards is the canonical form whose digest was signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree

from attestation.errors import Malformed, NotAuthentic
from attestation.gpu.chain import RIM_CODES, Chain, Proven, signature_holds
from attestation.types import Digest

MAX_RIM = 256 * 1024
"""Largest manifest read, in bytes; genuine ones have about 20 KiB."""

_TAG = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_SIG = "{http://www.w3.org/2000/09/xmldsig#}"
_HASH = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
_C14N = "http://www.w3.org/2006/12/xml-c14n11"
_SIGNED_INFO: tuple[tuple[str, dict[str, str]], ...] = (
    (f"{_SIG}CanonicalizationMethod", {"Algorithm": _C14N}),
    (
        f"{_SIG}SignatureMethod",
        {"Algorithm": "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"},
    ),
    (f"{_SIG}Reference", {"URI": ""}),
    (f"{_SIG}Transforms", {}),
    (
        f"{_SIG}Transform",
        {"Algorithm": "http://www.w3.org/2000/09/xmldsig#enveloped-signature"},
    ),
    (f"{_SIG}Transform", {"Algorithm": _C14N}),
    (f"{_SIG}DigestMethod", {"Algorithm": "http://www.w3.org/2001/04/xmldsig-more#sha384"}),
    (f"{_SIG}DigestValue", {}),
)
"""SignedInfo in document order: element and attributes, nothing more and nothing less."""
_CERTIFICATES = 4
_HEX = re.compile(r"[0-9a-f]{96}\Z")
_INDEX = re.compile(r"0|[1-9][0-9]{0,2}\Z")
_VERSION = re.compile(r"[0-9A-Za-z._-]{1,32}\Z")
_ALTERNATIVES = 16


@dataclass(frozen=True, slots=True)
class Rim:
    """What NVIDIA states a driver or a VBIOS measures as."""

    product: str
    """Chip, as `GH100`."""
    version: str
    """Of the driver or the VBIOS."""
    golden: tuple[tuple[int, tuple[bytes, ...]], ...]
    """Active indexes in order, each with the 48-byte values that are accepted there."""
    chain: Chain
    digest: Digest
    """Of the file."""

    @property
    def indexes(self) -> frozenset[int]:
        """The measurements this manifest decides."""
        return frozenset(index for index, _ in self.golden)

    @classmethod
    def verify(cls, xml: bytes, *, root_der: bytes, now: datetime, proven: Proven) -> Rim:
        """Check signature and chain at `now`, then read the signed bytes and only those.

        Raises `Malformed` `too-large` or `rim-malformed`, `NotAuthentic` `rim-signature` or
        `rim-chain`, `Undecidable` `rim-expired`.
        """
        document = _document(xml)
        signed, signature = _split(document)
        info, value, certificates = _signature_parts(signature)
        chain = _chain(certificates, root_der=root_der, now=now, proven=proven)
        try:
            signature_holds(chain.leaf.key, value, info.canonical)
        except InvalidSignature:
            raise NotAuthentic("rim-signature", "the certified key did not sign it") from None
        if not hmac.compare_digest(hashlib.sha384(signed).digest(), info.digest):
            raise NotAuthentic("rim-signature", "the manifest is not what was signed")
        return _read(_document(signed), chain=chain, digest=Digest.sha256(xml))

    def again(self, *, root_der: bytes, now: datetime, proven: Proven) -> Rim:
        """Ask the certificates of a manifest that was verified before whether they hold at `now`.

        Its signature and what it states are facts of the same bytes. Raises as `verify` does.
        """
        ders = tuple(link.certificate.public_bytes(Encoding.DER) for link in self.chain.links)
        chain = _chain(ders, root_der=root_der, now=now, proven=proven)
        return replace(self, chain=chain)


def _chain(ders: tuple[bytes, ...], *, root_der: bytes, now: datetime, proven: Proven) -> Chain:
    return Chain.verify(
        ders, root_der=root_der, now=now, codes=RIM_CODES, what="manifest signer", proven=proven
    )


@dataclass(frozen=True, slots=True)
class _SignedInfo:
    canonical: bytes
    digest: bytes


def _document(xml: bytes) -> etree._Element:
    """Parse XML that has no DTD, comment, processing instruction, CDATA or `xml:` attribute.

    Comments are not signed; the others are ways to make one text mean two things. Without `xml:`
    attributes Canonical XML 1.0, which lxml implements, and 1.1 are the same (RFC 6931 2.3).
    """
    if len(xml) > MAX_RIM:
        raise Malformed("too-large", f"manifest of {len(xml)} bytes, limit {MAX_RIM}")
    body = xml.removeprefix(b'<?xml version="1.0" encoding="UTF-8"?>')
    if b"<!" in body or b"<?" in body or b"xml:" in body or b"\0" in body:
        raise _malformed("it holds a declaration, an instruction, a comment or an xml: attribute")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, encoding="utf-8"
    )
    try:
        return etree.fromstring(body, parser)
    except (etree.XMLSyntaxError, ValueError):
        raise _malformed(f"{len(xml)} bytes are not XML") from None


def _split(document: etree._Element) -> tuple[bytes, etree._Element]:
    """Return the canonical document without its signature (XML-DSig 6.6.4), and the signature."""
    signatures = list(document.iter(f"{_SIG}Signature"))
    if len(signatures) != 1 or len(document) == 0 or document[-1] is not signatures[0]:
        raise _malformed(f"{len(signatures)} signatures, or not the last child of the root")
    (signature,) = signatures
    bare = etree.fromstring(_canonical(document))
    last = bare[-1]
    before = last.getprevious()
    if before is None:
        raise _malformed("it holds nothing but a signature")
    before.tail = (before.tail or "") + (last.tail or "")
    bare.remove(last)
    return _canonical(bare), signature


def _signature_parts(
    signature: etree._Element,
) -> tuple[_SignedInfo, bytes, tuple[bytes, ...]]:
    """Return SignedInfo, r and s, and the certificates of a signature of NVIDIA's profile."""
    _exactly(signature, "SignedInfo", "SignatureValue", "KeyInfo")
    info, value, key = signature
    shape = tuple((item.tag, dict(item.attrib)) for item in info.iterdescendants())
    if signature.attrib or info.attrib or shape != _SIGNED_INFO:
        raise _malformed("its signature is not of NVIDIA's profile")
    (data,) = _exactly(key, "X509Data")
    certificates = _exactly(data, *["X509Certificate"] * _CERTIFICATES)
    digest = _base64(info[2][2])
    if len(digest) != 48:
        raise _malformed(f"digest of {len(digest)} bytes")
    ders = tuple(_base64(item) for item in certificates)
    return _SignedInfo(_canonical(info), digest), _base64(value), ders


def _canonical(item: etree._Element) -> bytes:
    """Return Canonical XML 1.0 of a document or of an element in its place."""
    try:
        return etree.tostring(item, method="c14n")
    except etree.LxmlError:  # a relative namespace has no canonical form
        raise _malformed("it has no canonical form") from None


def _exactly(parent: etree._Element, *names: str) -> tuple[etree._Element, ...]:
    """Return the children of `parent`, which must have these names and no attributes."""
    children = tuple(parent)
    if [child.tag for child in children] != [f"{_SIG}{name}" for name in names]:
        raise _malformed(f"its signature is not of NVIDIA's profile at {names[0]}")
    if any(child.attrib for child in children):
        raise _malformed("its signature has attributes that NVIDIA's have not")
    return children


def _base64(item: etree._Element) -> bytes:
    text = "".join((item.text or "").split("\n"))
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise _malformed("a value of its signature is not base64") from None
    if len(item) or base64.b64encode(data).decode() != text:
        raise _malformed("a value of its signature is not canonical base64")
    return data


def _read(document: etree._Element, *, chain: Chain, digest: Digest) -> Rim:
    """Read a document whose every byte was signed."""
    metas, payloads = document.findall(f"{_TAG}Meta"), document.findall(f"{_TAG}Payload")
    if document.tag != f"{_TAG}SoftwareIdentity" or len(metas) != 1 or len(payloads) != 1:
        raise _malformed("it is not a SWID tag with one Meta and one Payload")
    product, version = (metas[0].get(name, "") for name in ("product", "colloquialVersion"))
    if not _VERSION.match(product) or not _VERSION.match(version):
        raise _malformed("it names no product and version")
    golden = dict[int, tuple[bytes, ...]]()
    seen = set[int]()
    for item in payloads[0]:
        index, active, values = _resource(item)
        if index in seen:
            raise _malformed(f"measurement {index} occurs twice")
        seen.add(index)
        if active:
            golden[index] = values
    if not golden:
        raise _malformed("no measurement is active; it would accept any device")
    return Rim(product, version, tuple(sorted(golden.items())), chain, digest)


def _resource(item: etree._Element) -> tuple[int, bool, tuple[bytes, ...]]:
    """Return index, whether it counts, and the accepted values of one measurement."""
    index, count = item.get("index", ""), item.get("alternatives", "")
    if (
        item.tag != f"{_TAG}Resource"
        or item.get("type") != "Measurement"
        or item.get("size") != "48"
        or item.get("active") not in ("True", "False")
        or not _INDEX.match(index)
        or not _INDEX.match(count)
        or not 1 <= int(count) <= _ALTERNATIVES
    ):
        raise _malformed("a measurement is not described as NVIDIA does")
    names = [name for name in item.attrib if str(name).startswith(_HASH)]
    values = [item.get(f"{_HASH}{place}", "").lower() for place in range(int(count))]
    if len(names) != len(values) or not all(_HEX.match(value) for value in values):
        raise _malformed(f"measurement {index} does not have {count} SHA-384 values")
    return int(index), item.get("active") == "True", tuple(map(bytes.fromhex, values))


def _malformed(why: str) -> Malformed:
    return Malformed("rim-malformed", f"manifest: {why}")
