"""What NVIDIA states about the devices of a guest: from its services, a mirror, or carried files.

The manifests of `GET RIMS/v1/rim/ID` are base64 inside JSON; OCSP is RFC 6960 over POST. Both are
signed by NVIDIA, so who hands them over need not be trusted, and nothing is kept that does not
verify.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import httpx2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from attestation.codec import parse_json, unb64
from attestation.errors import ConfigError, Malformed, Undecidable
from attestation.gpu.chain import Link
from attestation.gpu.evidence import GpuEndorsements, GpuEvidence
from attestation.gpu.ocsp import MAX_OCSP
from attestation.gpu.rim import MAX_RIM, Rim
from attestation.gpu.verify import Device, GpuRoots, issued_pairs, verify_gpu
from attestation.regular import read_regular
from attestation.x509 import UNREADABLE

_MAX_ANSWER = 2 * MAX_RIM


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
    """An HTTPS service: NVIDIA's, or a mirror that answers as it does."""

    url: str
    authority: ssl.SSLContext | None = None
    """`None`: the system's certificate authorities."""
    timeout_s: float = 20

    def manifest(self, name: str) -> bytes:
        """Fetch a manifest; raises `Undecidable` `nvidia-unreachable`."""
        return _unpacked(self._ask("GET", f"/v1/rim/{name}", content=None), name=name)

    def response(self, subject: Link, issuer: Link) -> bytes:
        """Ask the responder; raises `Undecidable` `nvidia-unreachable`."""
        builder = ocsp.OCSPRequestBuilder().add_certificate(
            subject.certificate, issuer.certificate, hashes.SHA384()
        )
        return self._ask("POST", "", content=builder.build().public_bytes(Encoding.DER))

    def _ask(self, method: str, path: str, *, content: bytes | None) -> bytes:
        headers = {} if content is None else {"content-type": "application/ocsp-request"}
        verify: ssl.SSLContext | bool = self.authority or True
        body = bytearray()
        try:
            with (
                httpx2.Client(verify=verify, trust_env=False, timeout=self.timeout_s) as client,
                client.stream(
                    method, self.url.rstrip("/") + path, content=content, headers=headers
                ) as answer,
            ):
                if answer.status_code != 200:
                    what = path.rpartition("/")[2] or "an OCSP request"
                    raise _away(f"the service answered {answer.status_code} for {what}")
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > _MAX_ANSWER:
                        raise _away(f"an answer of the service is over {_MAX_ANSWER} bytes")
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
            raise ConfigError("service-url", "a URL is not https://host[:port][/path]") from None
        except httpx2.HTTPError as error:
            raise _away(f"no answer from the service: {type(error).__name__}") from None
        return bytes(body)


@dataclass(frozen=True, slots=True)
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
        wanted = subject.certificate.serial_number
        found = [item for item in self._responses() if item.serial_number == wanted]
        if not found:
            raise _away(f"no *.der in {self.directory} is about serial {subject.serial}")
        return max(found, key=lambda item: item.this_update_utc).public_bytes(Encoding.DER)

    def _responses(self) -> Iterator[ocsp.OCSPResponse]:
        for path in sorted(self.directory.glob("*.der")):
            try:
                response = ocsp.load_der_ocsp_response(read_regular(path, limit=MAX_OCSP))
                _ = response.serial_number
            except OSError as error:
                raise _away(f"{path.name}: {error.strerror}") from None
            except UNREADABLE:
                why = f"{path.name} is no successful OCSP response"
                raise Malformed("ocsp-malformed", why) from None
            yield response


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
    return Undecidable("nvidia-unreachable", why)
