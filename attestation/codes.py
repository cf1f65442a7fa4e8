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
        # -- TDX quotes (attestation.tdx.quote, .framing, .causes, .checks)
        "quote-malformed": "send the quote exactly as the guest read it from configfs-tsm",
        "quote-unsupported": "send a TDX quote of version 4 or 5 with an ECDSA P-256 key",
        "collateral-malformed": "send collateral in the JSON form of dcap-qvl, as Intel signed it",
        "collateral-signature": "discard this collateral; it was altered after Intel signed it",
        "collateral-expired": "fetch current collateral; the platform itself may be fine",
        "collateral-future": "check the clock; the collateral is issued after the given time",
        "collateral-mismatch": "fetch the TDX collateral of this platform's FMSPC and PCE",
        "tdx-chain": "treat the quote as forged: its certificates do not lead to the pinned root",
        "tdx-role": "treat the evidence as forged: a certificate acts outside its role",
        "tdx-root": "name an SGX root certificate as the TDX root",
        "tdx-revoked": "take the platform out of service; its certificate is revoked",
        "tdx-certificate-time": "check the clock, then provision the platform again",
        "tdx-signature": "treat the quote as forged or damaged; ask the guest for a new one",
        "tdx-quoting-enclave": "treat the quote as forged: Intel's quoting enclave did not make it",
        "tdx-module": "treat the platform as untrusted: its TDX module is not Intel's",
        "tdx-module-rollback": "find out why the TDX module got older; relaunch the guest",
        "tdx-debug": "launch the guest without the debug attribute",
        "tdx-attributes": "launch the guest with SEPT_VE_DISABLE and nothing that weakens it",
        "tdx-service-td": "launch the guest without a migration or other service TD",
        "tdx-refused": "report this with the quote's version; the cause has no code yet",
        "tcb-revoked": "update the platform; Intel no longer vouches for its firmware at all",
        "tcb-unknown": "update the platform; Intel lists no level as low as its firmware",
        # -- evidence as a whole (attestation.authenticate)
        "gpu-unsupported": "verify a guest without GPU evidence; this release cannot check it",
        "binding-mismatch": "treat the evidence as replayed: the quote binds other keys or logs",
        "nonce-mismatch": "treat the evidence as replayed: it answers somebody else's nonce",
        "eventlog-mismatch": "do not trust the log: it is not what the quote's RTMRs measured",
        # -- reports (attestation.report, attestation.fetch, attestation.endorse)
        "endorsements-missing": "give Intel's collateral for this platform with --collateral",
        "report-unavailable": "ask the operator whether the service is ready, then try again",
        "service-unreachable": "check host and port; the service speaks TLS 1.3",
        "tls-certificate": "the service must present an X.509 certificate",
        # -- commands (attestation.commands)
        "file-unreadable": "correct the path on the command line",
        "file-unwritable": "correct the path on the command line",
        "argument-invalid": "see --help for the form of this argument",
        # -- policy and checks (attestation.policy, attestation.checks)
        "policy-blank": "replace every FILL-IN of the template with a reviewed value",
        "policy-invalid": "mend the named field of the policy; every expectation must be spelled "
        "out",
        "root.simulated": "use a policy for this kind of machine; a simulated guest proves "
        "nothing about hardware",
        "tdx.tcb-status": "update the platform's firmware, or grant its status a grace period "
        "with an end date",
        "tdx.qe-status": "update the platform's DCAP software (quoting enclave)",
        "tdx.advisories": "read the advisory at intel.com/sa and update the platform",
        "tdx.evaluation-number": (
            "fetch newer collateral (update=standard or early) for this platform"
        ),
        "tdx.collateral-age": "fetch fresh collateral; the platform itself may be fine",
        "tdx.attributes": "start the guest without debug and with the attributes the policy "
        "expects",
        "tdx.xfam": "start the guest with the CPU features (XFAM) the policy expects",
        "tdx.platform": "find out whose machine this is before adding its PPID to the policy",
        "tdx.module-signer": "reinstall Intel's signed TDX module on the host",
        "tdx.module-measurement": "compare the host's TDX module with the policy's list",
        "tdx.mrtd": "compare the firmware (OVMF) build of the guest with the policy's image",
        "tdx.rtmr0": "compare CPU count, memory and firmware settings of the VM with the "
        "policy's; tacit inspect shows the events",
        "tdx.rtmr1": "compare the guest's boot loader and kernel with the policy's image; "
        "tacit inspect shows the events",
        "tdx.rtmr2": "compare the guest's kernel command line and initrd with the policy's "
        "image; tacit inspect shows the events",
        "tdx.mr-config-id": "start the guest with the MRCONFIGID the policy names",
        "tdx.mr-owner": "start the guest with the MROWNER the policy names",
        "tdx.mr-owner-config": "start the guest with the MROWNERCONFIG the policy names",
        "runtime.events": "send the whole event log; extend RTMR3 with one config event and one "
        "per model only",
        "runtime.config": "review the configuration that runs and add its digest to the policy, "
        "or deploy an approved one",
        "runtime.model": "review the manifest that runs and add its digest to the policy, or "
        "deploy an approved one",
        "keyset.retention": "do not send prompts; the service does not promise to keep nothing",
        "keyset.training": "do not send prompts; the service does not promise not to train on them",
        "keyset.operator": "find out who runs this service before adding the operator to the "
        "policy",
        "keyset.jurisdiction": "use a service in a jurisdiction the policy names",
        "keyset.audit-fields": "ask the operator what the additional audit field records",
        "keyset.config-measured": (
            "do not send prompts; the stated configuration is not the one that runs"
        ),
        "keyset.models-measured": (
            "do not send prompts; the service states other models than it runs"
        ),
        "result-expired": "verify again with fresh evidence and collateral",
        "result-empty": "report this: nothing was checked",
        # -- evidence collection (attestation.tdx.collect)
        "tdx-absent": "run inside a TDX guest with Linux 6.16 or newer and configfs mounted",
        "tdx-denied": "let the service read CCEL and write to configfs-tsm and the RTMR files",
        "tdx-provider": "run inside a TDX guest; this machine's TSM reports are of another kind",
        "rtmr-moved": "start the TD again: RTMR3 must be measured by one run of this process alone",
        "rtmr-not-extended": "start the TD again; the kernel did not extend RTMR3",
        "quote-timeout": "check that QEMU has a quote-generation-socket and that QGS answers",
        "quote-unavailable": "check the quote generation service of the host, then try again",
        "quote-too-large": "use Linux 7.0 or newer, whose quote buffer is 128 KiB",
        "quote-interfered": "try again; if it repeats, find out what else writes to configfs-tsm",
        "quote-report-data": "do not trust the host: it answered with another quote",
        # -- software TDX (attestation.simulator)
        "simulator-exists": "give another directory, or keep using the one that is there",
        "simulator-absent": "create it with `python -m attestation.simulator new DIR`",
        "simulator-busy": "another simulator serves this directory; use that one or stop it",
        "simulator-down": "start `python -m attestation.simulator serve DIR`",
        # -- gateway boot (server.boot, server.measure)
        "td-measured-other": "reboot the TD; RTMR3 only extends, and another deployment ran in it",
        "td-journal": "remove the file and reboot the TD",
        # -- client (attestation.client)
        "service-url": "give the service as https://host:port",
        "tls-key-mismatch": "do not send anything: somebody else ends the TLS connection",
        "other-origin": "use a client per service; redirects to another host are not followed",
        # -- key broker (attestation.broker)
        "kbs-version": "use a KBS client that speaks protocol 0.4.0",
        "kbs-tee": "ask from a TDX guest; this broker verifies no other TEE",
        "tee-pubkey": "send an EC P-256 key for ECDH-ES+A256KW, made for this boot",
        "init-data": "send init-data as the TOML or JSON document the guest was started with",
        "init-data-mismatch": "treat the evidence as forged: MRCONFIGID is another document's",
        "jwe": "compare the answer with KBS 0.4.0; it is not a JWE the protocol allows",
        "jwe-not-for-us": "attest again; the answer was sealed to another key or altered",
        "resource-path": "name a resource as repo/type/tag",
        "resource-unknown": "add the resource to the broker's configuration or correct its name",
        "manifest-not-measured": "measure the manifest the key was wrapped for, or seal again",
        "affirmation-expired": "attest again; the collateral behind the result has ended",
        "session-unknown": "ask for a challenge first and send its cookie",
        "session-expired": "ask for a new challenge; a session lasts some minutes",
        "session-spent": "ask for a new challenge; a nonce is good for one attestation",
        "session-unattested": "attest in this session before asking for resources",
        "session-exhausted": "attest again; a session may ask for 64 resources",
        "body-incomplete": "send the whole body at once",
        "route-unknown": "compare the path and method with KBS 0.4.0",
        "broker-bug": "report it with the time; nothing was released",
        "broker-busy": "try again in some minutes; every session is in use",
        "broker-extra": "install the extra: pip install 'tacit-inference[broker]'",
        "wrap-size": "give the secret on standard input, at most 64 KiB",
        "broker-listen": "free the address or name another under `listen`",
        "broker-tls": "name the PEM certificate and its private key under `tls`",
        "broker-store": "free the disk or restart the database; nothing is released unrecorded",
        "broker-store-url": "use sqlite:PATH in a directory that can be written, or a database URL",
        "release-log-broken": "treat the broker's host as compromised: its log was altered",
        "release-log-cut": "treat the broker's host as compromised: its log lost entries",
        "kek-uri": "name the KEK as file:PATH",
        "kek-file": "create the KEK with `tacit kek new PATH`, or correct its path",
        "kek-permissions": "make the KEK file readable by its owner alone (chmod 600)",
        "kek-mismatch": "use the KEK the key was wrapped by, with the file it was written to",
        "wrapped-key": "write the file again with `tacit seal` or `tacit wrap`",
        "wrapped-key-rollback": "restore the newer wrapped key; old model versions stay refused",
        "token-key": "create an unencrypted P-256 private key in PEM",
        "broker-refused": "compare the guest with the broker's policy; its log has the code",
        "broker-rejected": "attest again; the broker did not take the evidence as authentic",
        "broker-undecided": "try again; the broker could not check or record",
        "broker-unreachable": "start the broker or correct its URL and certificate",
        "broker-tls-key": "do not send anything: another key than the measured one answers",
        "broker-protocol": "compare the broker with KBS 0.4.0; its answer is not one",
        # -- sealed weights (attestation.dsse, .manifest, .sealing, .safetensors, .weights)
        "dsse-malformed": "write the envelope as canonical JSON with one signature",
        "manifest-signer": "do not load: somebody else than the configured signer signed this",
        "manifest-malformed": "seal the model again; the manifest does not follow the format",
        "safetensors-header": "write the weights again with the safetensors library",
        "weights-plaintext-beside": "remove the unsealed file; only sealed ones are ever loaded",
        "weights-extra-file": "remove the file the manifest does not name",
        "weights-missing-file": "copy the whole package again, the manifest last",
        "weights-size": "copy the package again; a file was cut or grown",
        "weights-tags": "do not load: the tag table is not the one that was signed",
        "weights-chunk": "do not load: ciphertext was altered, moved or cut",
        "weights-content": "seal the model again; a file is not what the manifest says it was",
        "weights-wrong-key": "release the key this package was sealed with",
        "weights-other-manifest": "do not load: the key was released for another manifest",
        "weights-rollback": "serve the current version; older ones are not accepted any more",
        "weights-unreadable": "check that the volume of the sealed package is mounted and readable",
        "unseal-target": "give a new private directory in memory (tmpfs) for the small files",
        "seal-source": "give a directory of safetensors and JSON files, with no link out of it",
        "seal-format": "convert the weights to safetensors; pickles and code are never sealed",
        "seal-index": "keep exactly the shards the index names, or write the index again",
        "seal-output": "give a new or empty directory outside of the model's",
        "seal-changed": "seal again while nothing writes to the model",
        "seal-argument": "compare the argument with `tacit seal --help`",
        "signing-key": "create an Ed25519 key with `tacit keygen PATH`, or correct its path",
        # -- key agent and sealed loader (attestation.keywire, server.vllm_plugin)
        "keywire-line": "speak the key agent's protocol: one JSON line of at most 4096 bytes",
        "key-agent-unreachable": "look why the gateway's key agent is gone; restart the service",
        "loader-config": "start the engine through `tacit serve`, which writes this configuration",
        "loader-unsupported": "serve a model whose weights are one sealed package of safetensors",
        # -- configuration
        "config-invalid": "mend the named field of the configuration file",
        "config-file-missing": "create the file or correct its path in the configuration",
        # -- engine (server.engine, server.keyagent)
        "engine-path": "give the engine absolute paths; its directory lies in the run directory",
        "engine-flag": "report this: the engine's command line holds a flag it must not have",
        "engine-python": "install the engine's environment, or correct `engine.python`",
        "engine-orphan": "stop the other gateway; two cannot share a run directory",
        "engine-isolation": "let the service make net, pid and mount namespaces; see tacit doctor",
        "engine-exited": "compare model, memory and device with the engine's settings",
        "engine-slow": "give the engine more `start_seconds`, or find out what holds it",
        "key-window": "restart the service; keys are handed out only while an engine loads",
        "key-peer": "find out which process asks for keys; it is not part of the engine",
        "key-model": "ask for the model this engine serves",
        "key-spent": "start as many workers as `tensor_parallel_size`; each gets the key once",
        # -- API keys (server.auth, server.keyfile, server.commands.apikey)
        "api-keys-missing": "create the key file with `tacit apikey new`, or correct its path",
        "api-key-pepper": "use at least 32 random bytes, the same the key broker releases",
        "api-key-unknown": "compare the id with `tacit apikey list`",
        "api-key-invalid": "tenants are lower-case letters, digits and `._-`; days are 1 to 1100",
    }
)
