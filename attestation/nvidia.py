"""What NVIDIA states about the devices of a guest: from its services, a mirror, or carried files.

The manifests of `GET RIMS/v1/rim/ID` are base64 inside JSON; OCSP is RFC 6960 over POST. Both are
signed by NVIDIA, so who hands them over need not be trusted, and nothing is kept that does not
verify.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from attestation.codec import parse_json, unb64
from attestation.errors import Malformed, Undecidable
from attestation.gpu.chain import Link
from attestation.gpu.evidence import GpuEndorsements, GpuEvidence
from attestation.gpu.ocsp import MAX_OCSP
from attestation.gpu.rim import MAX_RIM, Rim
from attestation.gpu.verify import Device, GpuRoots, issued_pairs, verify_gpu
from attestation.https import Https
from attestation.regular import read_regular
from attestation.x509 import UNREADABLE

_MAX_ANSWER = 2 * MAX_RIM
_TIMEOUT_S = 20
_AWAY = "nvidia-unreachable"


class Manifests(Protocol):
    """Where manifests are found."""

    def manifest(self, name: str) -> bytes:
        """Return the XML that NVIDIA calls `name`, or raise `Undecidable`."""


class Responder(Protocol):
    """Where OCSP responses are found."""

    def response(self, subject: Link, issuer: Link) -> bytes:
        """Return DER about `subject`, or raise `Undecidable`."""


@dataclass(frozen=True, slots=True)
class Service:
    """NVIDIA's service, or a mirror that answers as it does."""

    https: Https

    def manifest(self, name: str) -> bytes:
        """Fetch a manifest; raises `Undecidable` `nvidia-unreachable`."""
        _, body = self.https.ask(f"/v1/rim/{name}", what=name)
        return _unpacked(body, name=name)

    def response(self, subject: Link, issuer: Link) -> bytes:
        """Ask the responder; raises `Undecidable` `nvidia-unreachable`."""
        builder = ocsp.OCSPRequestBuilder().add_certificate(
            subject.certificate, issuer.certificate, hashes.SHA384()
        )
        request = builder.build().public_bytes(Encoding.DER)
        sent = ("application/ocsp-request", request)
        _, body = self.https.ask("", what=f"serial {subject.serial}", sent=sent)
        return body


@contextlib.contextmanager
def service(url: str, authority: ssl.SSLContext | None = None) -> Iterator[Service]:
    """Connect to a service inside the block; `authority` `None` is the system's."""
    with Https(
        url,
        authority=authority,
        timeout_s=_TIMEOUT_S,
        limit=_MAX_ANSWER,
        who="the service",
        wanted="answer",
        code=_AWAY,
    ) as https:
        yield Service(https)


@dataclass(frozen=True)
class Carried:
    """A directory of `ID.json` as a service answers, or `ID.xml`, and of OCSP responses `*.der`."""

    directory: Path

    def manifest(self, name: str) -> bytes:
        """Read a manifest; raises `Undecidable` `nvidia-unreachable` for one that is not there."""
        for suffix in ("json", "xml"):
            try:
                data = read_regular(self.directory / f"{name}.{suffix}", limit=_MAX_ANSWER)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _away(f"{name}.{suffix}: {error.strerror}") from None
            return _unpacked(data, name=name) if suffix == "json" else data
        raise _away(f"neither {name}.json nor {name}.xml is in {self.directory}")

    def response(self, subject: Link, issuer: Link) -> bytes:
        """Return the newest response about the serial number; whether it counts is verified."""
        del issuer
        found = self._newest.get(subject.certificate.serial_number)
        if found is None:
            raise _away(f"no *.der in {self.directory} is about serial {subject.serial}")
        return found.public_bytes(Encoding.DER)

    @cached_property
    def _newest(self) -> Mapping[int, ocsp.OCSPResponse]:
        responses = [_response(path) for path in sorted(self.directory.glob("*.der"))]
        responses.sort(key=lambda item: item.this_update_utc)
        return {item.serial_number: item for item in responses}


def _response(path: Path) -> ocsp.OCSPResponse:
    try:
        response = ocsp.load_der_ocsp_response(read_regular(path, limit=MAX_OCSP))
        _ = (response.serial_number, response.this_update_utc)
    except OSError as error:
        raise _away(f"{path.name}: {error.strerror}") from None
    except UNREADABLE:
        why = f"{path.name} is no successful OCSP response"
        raise Malformed("ocsp-malformed", why) from None
    return response


def collected(
    evidence: GpuEvidence,
    manifests: Manifests,
    responder: Responder,
    *,
    roots: GpuRoots,
    now: datetime,
) -> GpuEndorsements:
    """Return every statement that `evidence` needs, after all of it verified at `now`.

    The nonce of the reports is not asked for: what NVIDIA states about a device does not depend on
    it. Raises a `Refusal` of `verify_gpu`, and `Undecidable` `nvidia-unreachable` for what is not
    to be had; a store that lacks something is never returned.
    """
    proven = roots.proven
    devices = tuple(
        Device.authenticate(item, nonce=None, root_der=roots.device_der, now=now, proven=proven)
        for item in evidence.devices
    )
    names = sorted({name for device in devices for name in device.rim_ids})
    rims = {name: manifests.manifest(name) for name in names}
    verified = [
        Rim.verify(xml, root_der=roots.rim_der, now=now, proven=proven) for xml in rims.values()
    ]
    pairs = {subject.certificate: (subject, issuer)
             for subject, issuer in issued_pairs(devices, verified)}  # fmt: skip
    store = GpuEndorsements(
        rims, tuple(responder.response(subject, issuer) for subject, issuer in pairs.values())
    )
    verify_gpu(evidence, store, nonce=None, roots=roots, now=now)
    return store


def _unpacked(answer: bytes, *, name: str) -> bytes:
    document = parse_json(answer, limit=_MAX_ANSWER)
    text = document.get("rim") if isinstance(document, dict) else None
    if not isinstance(text, str):
        raise Malformed("rim-malformed", f"the answer for {name} has no text `rim`")
    return unb64(text, what="manifest")


def _away(why: str) -> Undecidable:
    return Undecidable(_AWAY, why)
