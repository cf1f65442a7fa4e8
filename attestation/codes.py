"""The table of stable codes: code -> what the reader does next. Add rows, never rename one."""

from __future__ import annotations

from types import MappingProxyType

CODES = MappingProxyType(
    {
        # -- encodings (attestation.codec)
        "json-malformed": "send one JSON document in UTF-8, without duplicate or unknown fields",
        "yaml-malformed": "mend the YAML file; keys must be unique and known",
        "too-large": "send less; the limit is in the message",
        "field-invalid": "compare the named field with its documented type",
        # -- keyset and binding (attestation.keyset, attestation.authenticate)
        "keyset-not-canonical": "send the keyset in its RFC 8785 form",
        # -- X.509 (attestation.x509)
        "certificate-malformed": "send certificates as canonical PEM, leaf first, 64 columns",
        "crl-malformed": "send the revocation list as one DER CRL",
        "crl-future": "check the clock; the revocation list is issued after the given time",
        "crl-expired": "fetch the current revocation list",
        # -- TDX event log (attestation.tdx.eventlog)
        "eventlog-malformed": "send the CCEL as the firmware wrote it, then the runtime events",
        "eventlog-event": "write runtime events as `domain operation content`",
        "eventlog-payload": "do not trust the log: a payload is not what was measured",
        # -- client (attestation.client)
        "service-url": "give the service as https://host:port",
        "tls-key-mismatch": "do not send anything: somebody else ends the TLS connection",
        "other-origin": "use a client per service; redirects to another host are not followed",
        # -- configuration
        "config-invalid": "mend the named field of the configuration file",
        "config-file-missing": "create the file or correct its path in the configuration",
        # -- quote layout (attestation.tdx.layout)
        "quote-malformed": "send a TDX quote of version 4 or 5, exactly as the guest got it",
        # -- API keys (server.auth, server.keyfile, server.commands.apikey)
        "api-keys-missing": "create the key file with `tacit apikey new`, or correct its path",
        "api-key-pepper": "use at least 32 random bytes, the same the key broker releases",
        "api-key-unknown": "compare the id with `tacit apikey list`",
        "api-key-invalid": "tenants are lower-case letters, digits and `._-`; days are 1 to 1100",
    }
)
