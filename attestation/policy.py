"""A YAML file in, the appraisal policy out: what is accepted, with nothing left to chance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import resources
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.authenticate import Roots
from attestation.codec import length_prefixed, parse_yaml
from attestation.errors import ConfigError
from attestation.gpu.verify import GpuRoots, nvidia_roots
from attestation.policy_file import PolicyFile
from attestation.policy_signature import Signature, looks_signed, open_policy
from attestation.types import Digest
from attestation.x509 import UNREADABLE

FILL_IN = "FILL-IN"
"""Stands in a template where a value belongs; a policy that holds it does not load."""

_LABEL = b"tacit/v1/policy"


@dataclass(frozen=True, slots=True)
class Policy:
    """A loaded policy, the roots it trusts and the digest of the bytes it came from."""

    file: PolicyFile
    roots: Roots
    digest: Digest
    """SHA-256("tacit/v1/policy" ‖ lp(file bytes)): a changed comment is another policy."""
    signature: Signature | None = None
    """`None` for a policy that nobody signed; production relies on no such one."""

    @classmethod
    def load_signed(
        cls, data: bytes, *, signer: Ed25519PublicKey, name: str, minimum: int = 1
    ) -> Policy:
        """Load what `tacit policy sign` wrote, signed by `signer` as number `minimum` or later.

        Raises `ConfigError`: `policy-unsigned`, `policy-signature`, `policy-rollback`.
        """
        text, signature = open_policy(data, signer=signer, name=name, minimum=minimum)
        return replace(cls.load(text, name=name), signature=signature)

    def require_signature(self) -> None:
        """Raise `ConfigError` `policy-unsigned` for a production policy that nobody signed."""
        if self.profile == "production" and self.signature is None:
            raise ConfigError("policy-unsigned", f"production policy {self.name} is not signed")

    @classmethod
    def load(cls, data: bytes, *, name: str) -> Policy:
        """Parse the YAML `data` of the file called `name`, or raise `ConfigError`."""
        if looks_signed(data):
            raise ConfigError("policy-signature", f"{name} is signed; name its signer's key")
        try:
            blanks = data.decode("utf-8").count(FILL_IN)
            if blanks:
                raise ConfigError("policy-blank", f"{name} has {blanks} values left to fill in")
            file = parse_yaml(PolicyFile, data, name=name)
        except UnicodeDecodeError:
            raise ConfigError("yaml-malformed", f"{name} is not UTF-8") from None
        except ConfigError as error:
            code = "policy-invalid" if error.code == "config-invalid" else error.code
            raise ConfigError(code, error.why) from None
        if file.root == "intel":
            roots = intel_roots()
        else:
            roots = simulated_roots(file.root.simulated, name=name)
            if file.root.nvidia is not None:
                nvidia = file.root.nvidia
                gpu = simulated_gpu_roots(nvidia.device, nvidia.rim, name=name)
                roots = replace(roots, gpu=gpu)
        return cls(file, roots, cls.digest_of(data))

    @staticmethod
    def digest_of(data: bytes) -> Digest:
        """Return the digest that the policy of these file bytes has."""
        return Digest.sha256(_LABEL + length_prefixed(data))

    @property
    def profile(self) -> Literal["production", "simulated"]:
        """Whether this policy is for real guests or for software TDX."""
        return self.file.profile

    @property
    def name(self) -> str:
        """What the file calls itself."""
        return self.file.name


def intel_roots() -> Roots:
    """Return Intel's SGX root and NVIDIA's two, the only anchors that are built in."""
    return Roots(tdx_der=_intel_root(), simulated=False, gpu=nvidia_roots())


def _intel_root() -> bytes:
    return resources.files("attestation.tdx").joinpath("intel_root.der").read_bytes()


def simulated_roots(pem: str, *, name: str) -> Roots:
    """Return the root of a software TDX; raises `ConfigError` for Intel's or for no root."""
    certificate = _one_certificate(pem, name=name)
    intel = x509.load_der_x509_certificate(_intel_root())
    if certificate.public_key() == intel.public_key():
        raise ConfigError("policy-invalid", f"{name}: the root is Intel's; write root: intel")
    return Roots(tdx_der=certificate.public_bytes(Encoding.DER), simulated=True)


def simulated_gpu_roots(device: str, rim: str, *, name: str) -> GpuRoots:
    """Return the roots of a mock NVIDIA; a genuine one is never trusted beside a test root."""
    genuine = nvidia_roots()
    anchors = tuple(_one_certificate(pem, name=name) for pem in (device, rim))
    for der in (genuine.device_der, genuine.rim_der):
        real = x509.load_der_x509_certificate(der).public_key()
        if any(anchor.public_key() == real for anchor in anchors):
            raise ConfigError("policy-invalid", f"{name}: a simulated root is NVIDIA's own")
    return GpuRoots(*(anchor.public_bytes(Encoding.DER) for anchor in anchors))


def _one_certificate(pem: str, *, name: str) -> x509.Certificate:
    try:
        (certificate,) = x509.load_pem_x509_certificates(pem.encode())
        certificate.public_key()  # a point that is not on its curve is found here
    except UNREADABLE:
        raise ConfigError(
            "policy-invalid", f"{name}: the root is not one PEM certificate"
        ) from None
    return certificate
