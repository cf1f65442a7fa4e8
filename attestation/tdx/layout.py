"""Byte layout of TDX quotes v4 and v5: a `TdReport` to bytes, bytes to a `TdReport`, unverified.

Intel TDX DCAP Quoting Library API, appendix "Quote format"; all integers are little endian.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass

from attestation.errors import Malformed
from attestation.tdx.claims import TdExtension, TdReport
from attestation.types import ReportData

HEADER_SIZE = 48
TEE_TYPE_TDX = 0x81
KEY_TYPE_ECDSA_P256 = 2
QE_VENDOR_INTEL = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

BODY_TD10 = 2
BODY_TD15 = 3
BODY_TD15_EX = 4
BODY_SIZES = {BODY_TD10: 584, BODY_TD15: 648, BODY_TD15_EX: 885}
"""Body type of a v5 descriptor -> size in bytes; a v4 quote always has a TD 1.0 body."""

_TD10 = struct.Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")
_TD15 = struct.Struct("<16s48s")
_TD15_EX = struct.Struct("<B32s48s48s8s16s16s12s48s8s")
_HEADER = struct.Struct("<HHIHH16s20s")
_DESCRIPTOR = struct.Struct("<HI")


@dataclass(frozen=True, slots=True)
class Header:
    """The first 48 bytes of a quote."""

    version: int = 4
    key_type: int = KEY_TYPE_ECDSA_P256
    tee_type: int = TEE_TYPE_TDX
    vendor: bytes = QE_VENDOR_INTEL
    user_data: bytes = bytes(20)

    def encode(self) -> bytes:
        """Return the 48 bytes."""
        return _HEADER.pack(
            self.version, self.key_type, self.tee_type, 0, 0, self.vendor, self.user_data
        )


V4 = Header()
V5 = Header(version=5)


def encode_report(report: TdReport) -> bytes:
    """Return 584 bytes, 648 where the report states `tee_tcb_svn2`, 885 where it has an extension.

    Raises `Malformed` for fields of other sizes, and for a service TD that the body cannot state.
    """
    body = _packed(
        _TD10,
        report.tee_tcb_svn,
        report.mr_seam,
        report.mr_signer_seam,
        report.seam_attributes,
        report.td_attributes,
        report.xfam,
        report.mrtd,
        report.mr_config_id,
        report.mr_owner,
        report.mr_owner_config,
        *report.rtmrs,
        report.report_data,
    )
    extension = report.extension
    if report.tee_tcb_svn2 is None:
        if any(report.mr_service_td) or extension is not None:
            raise Malformed("quote-malformed", "a TD 1.0 body has no mr_service_td, no extension")
        return body
    body += _packed(_TD15, report.tee_tcb_svn2, report.mr_service_td)
    return body if extension is None else body + _packed(_TD15_EX, *astuple(extension))


def _packed(layout: struct.Struct, *fields: bytes | int) -> bytes:
    """Pack fields that have their exact sizes: `struct` would cut or pad them."""
    packed = layout.pack(*fields)
    if layout.unpack(packed) != fields:
        raise Malformed("quote-malformed", "a field of a TD report has not its size")
    return packed


def decode_report(body: bytes) -> TdReport:
    """Read a body of 584 (TD 1.0), 648 (TD 1.5) or 885 bytes (TD 1.5ex); nothing is verified."""
    if len(body) not in BODY_SIZES.values():
        raise Malformed("quote-malformed", f"report body of {len(body)} bytes")
    (tcb, seam, signer, seam_attributes, td_attributes, xfam, mrtd, config_id, owner, owner_config,
     *rtmrs, report_data) = _TD10.unpack_from(body)  # fmt: skip
    svn2, service_td, extension = None, bytes(48), None
    if len(body) > _TD10.size:
        svn2, service_td = _TD15.unpack_from(body, _TD10.size)
    if len(body) > _TD10.size + _TD15.size:
        extension = TdExtension(*_TD15_EX.unpack_from(body, _TD10.size + _TD15.size))
    return TdReport(
        mrtd=mrtd,
        rtmrs=(rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3]),
        mr_config_id=config_id,
        mr_owner=owner,
        mr_owner_config=owner_config,
        mr_seam=seam,
        mr_signer_seam=signer,
        mr_service_td=service_td,
        seam_attributes=seam_attributes,
        td_attributes=td_attributes,
        xfam=xfam,
        report_data=report_data,
        tee_tcb_svn=tcb,
        tee_tcb_svn2=svn2,
        extension=extension,
    )


def encode_body(version: int, body: bytes) -> bytes:
    """Return what follows the header: v5 puts a descriptor in front of the report body."""
    if version == 4:
        return body
    kind = next((kind for kind, size in BODY_SIZES.items() if size == len(body)), None)
    if kind is None:
        raise Malformed("quote-malformed", f"report body of {len(body)} bytes")
    return _DESCRIPTOR.pack(kind, len(body)) + body


def claimed_body(quote: bytes) -> bytes:
    """Return the report body that an unverified TDX quote of version 4 or 5 carries."""
    if len(quote) < HEADER_SIZE + _DESCRIPTOR.size:
        raise Malformed("quote-malformed", f"quote of {len(quote)} bytes")
    version, _, tee_type, *_ = _HEADER.unpack_from(quote)
    if version not in {4, 5} or tee_type != TEE_TYPE_TDX:
        raise Malformed("quote-malformed", f"version {version}, TEE type {tee_type:#x}")
    kind, size, start = BODY_TD10, BODY_SIZES[BODY_TD10], HEADER_SIZE
    if version == 5:
        kind, size = _DESCRIPTOR.unpack_from(quote, HEADER_SIZE)
        start += _DESCRIPTOR.size
    if BODY_SIZES.get(kind) != size or len(quote) < start + size:
        raise Malformed("quote-malformed", f"body type {kind} of {size} bytes in {len(quote)}")
    return quote[start : start + size]


def claimed_report_data(quote: bytes) -> ReportData:
    """Return the 64 bytes of REPORT_DATA of an unverified quote, to compare with one's own."""
    return ReportData(decode_report(claimed_body(quote)).report_data)
