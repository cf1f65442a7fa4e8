"""Tacit's verifier: evidence of a confidential guest in, a verdict with reasons out.

    policy = Policy.load_signed(data, signer=key, name="prod.yaml")
    client = OpenAI(base_url=f"{url}/v1", http_client=attested_client(url, policy))

does all of it for prompts: it verifies the service and pins its key before anything is sent. By
hand, with names from their modules:

    report = Report.parse(bytes_from_the_service)                      # attestation.report
    result = Verifier(policy).verify(                                  # attestation.verifier
        report.evidence, report.endorsements, expected_nonce=ours, now=now
    )
    affirmed = result.affirmed(now)                                    # attestation.appraise

`result.checks` answers every check; `Affirmed` is the only value that a relying party acts on.
The names below are imported on first use, because the engine's environment holds only parts.
"""

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attestation.client import attested_async_client, attested_client
    from attestation.errors import ConfigError, Refusal
    from attestation.policy import Policy

__all__ = ["ConfigError", "Policy", "Refusal", "attested_async_client", "attested_client"]

_MODULES = MappingProxyType(
    {
        "ConfigError": "attestation.errors",
        "Policy": "attestation.policy",
        "Refusal": "attestation.errors",
        "attested_async_client": "attestation.client",
        "attested_client": "attestation.client",
    }
)

if not TYPE_CHECKING:  # or a type checker would take every name for one of ours

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module 'attestation' has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)
