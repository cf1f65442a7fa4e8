"""A software TD in; the YAML of a policy that accepts exactly it out."""

from __future__ import annotations

import json
from collections.abc import Mapping

from attestation.simulator.gpus import Board, policy_lines
from attestation.simulator.intel import MockIntel
from attestation.simulator.statements import TcbInfo
from attestation.tdx.claims import TdReport
from attestation.types import Digest

_TEMPLATE = """\
# Accepts one software TD, and nothing genuine. For development and tests: its root proves nothing.
version: 1
name: {name}
profile: simulated
root:
  simulated: |
{root}
{nvidia}tdx:
  tcb:
    accepted_statuses: [UpToDate]
    denied_advisories: none
    minimum_evaluation_number: {evaluation}
    collateral_max_age_days: 30
    grace: none
  td_attributes: {{mask: "ffffffffffffffff", value: "{attributes}"}}
  xfam: {{mask: "ffffffffffffffff", value: "{xfam}"}}
  platforms: ["{ppid}"]
  platform_kind: {{sgx_types: [scalable], dynamic: any, cached_keys: any, smt: any}}
  module: {{signer: intel, measurement: ["{mr_seam}"]}}
  guests:
    - name: simulated-td
      mrtd: ["{mrtd}"]
      rtmr0: ["{rtmr0}"]
      rtmr1: ["{rtmr1}"]
      rtmr2: ["{rtmr2}"]
      mr_config_id: [{mr_config_id}]
      mr_owner: [{mr_owner}]
      mr_owner_config: [{mr_owner_config}]
runtime:
  config: [{config}]
  models:
{models}
{gpu}
keyset:
  retention: none
  training: none
  operators: any
  jurisdictions: any
  audit_fields: any
  filters: none
  telemetry: any
"""


def policy_yaml(
    report: TdReport,
    intel: MockIntel,
    *,
    config: Digest,
    models: Mapping[str, Digest],
    board: Board | None = None,
    name: str = "simulated",
) -> bytes:
    """Return a policy for the TD of `report` on `intel`'s machine, serving `models` by `config`.

    Every field is pinned to the value it has; nothing is `any` that a software TD determines.
    """
    text = _TEMPLATE.format(
        name=json.dumps(name),
        root=_indented(intel.root_pem.decode(), by=4),
        nvidia="" if board is None else _nvidia(board),
        gpu="gpu: none" if board is None else "\n".join(policy_lines(board)),
        evaluation=TcbInfo().evaluation,
        attributes=report.td_attributes.hex(),
        xfam=report.xfam.hex(),
        ppid=intel.machine.ppid.hex(),
        mr_seam=report.mr_seam.hex(),
        mrtd=report.mrtd.hex(),
        rtmr0=report.rtmrs[0].hex(),
        rtmr1=report.rtmrs[1].hex(),
        rtmr2=report.rtmrs[2].hex(),
        mr_config_id=_owned(report.mr_config_id),
        mr_owner=_owned(report.mr_owner),
        mr_owner_config=_owned(report.mr_owner_config),
        config=json.dumps(str(config)),
        models="\n".join(
            f"    {json.dumps(served)}: [{json.dumps(str(digest))}]"
            for served, digest in models.items()
        ),
    )
    return text.encode()


def _nvidia(board: Board) -> str:
    roots = {"device": board.nvidia.device_root.pem, "rim": board.nvidia.rim_root.pem}
    texts = (f"    {name}: |\n{_indented(pem, by=6)}\n" for name, pem in roots.items())
    return "  nvidia:\n" + "".join(texts)


def _indented(pem: str, *, by: int) -> str:
    return "\n".join(" " * by + line for line in pem.splitlines())


def _owned(register: bytes) -> str:
    return f'"{register.hex()}"' if any(register) else "unset"
