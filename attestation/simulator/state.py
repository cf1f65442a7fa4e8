"""A software TDX on disk: the keys of its mock Intel, its root and its collateral.

DIR/root.pem          the trust anchor, for policies
DIR/collateral.json   Intel's statements, to be stapled; refreshed by `collateral`
DIR/endorsements/     the same by platform, and NVIDIA's statements where the guest has GPUs
DIR/intel/            private keys (0600) and the date the hierarchy was created
DIR/report, DIR/measurements, DIR/ccel    the guest's kernel interfaces, see `tsm`
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime

from attestation.codec import Document, parse_document
from attestation.errors import ConfigError
from attestation.simulator import gpus
from attestation.simulator.guest import SoftwareGuest
from attestation.simulator.intel import KEYS, MockIntel
from attestation.tdx.quote import collateral_key

_KEYS = "intel"
_CREATED = "created.json"
COLLATERAL = "collateral.json"
ENDORSEMENTS = "endorsements"
ROOT = "root.pem"


class _Created(Document):
    created: AwareDatetime


def create(directory: Path, *, now: datetime) -> MockIntel:
    """Make a new mock Intel in `directory`; refuse one that already has keys."""
    keys = directory / _KEYS
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        keys.mkdir(mode=0o700)
    except FileExistsError:
        raise ConfigError("simulator-exists", f"{keys} exists already") from None
    intel = MockIntel.generate(now)
    for name, pem in intel.to_pem().items():
        _write_private(keys / f"{name.lower()}.pem", pem)
    created = _Created(created=intel.created)
    _write_private(keys / _CREATED, created.model_dump_json().encode())
    (directory / ROOT).write_bytes(intel.root_pem)
    write_collateral(directory, intel, now=now)
    return intel


def load(directory: Path) -> MockIntel:
    """Restore the mock Intel that `create` left in `directory`."""
    keys = directory / _KEYS
    try:
        pem = {name: (keys / f"{name.lower()}.pem").read_bytes() for name in KEYS}
        created = parse_document(_Created, (keys / _CREATED).read_bytes()).created
    except FileNotFoundError:
        raise ConfigError("simulator-absent", f"{directory} holds no software TDX") from None
    return MockIntel.from_pem(pem, created=created)


def write_collateral(directory: Path, intel: MockIntel, *, now: datetime) -> Path:
    """Sign Intel's statements at `now`, and NVIDIA's, and replace each file in one step."""
    collateral = intel.collateral(now)
    endorsements = directory / ENDORSEMENTS
    endorsements.mkdir(exist_ok=True)
    platform = collateral_key(SoftwareGuest(intel).quote(bytes(64)))
    _replace(endorsements / f"{platform}.json", collateral)
    if (board := gpus.load(directory)) is not None:
        _replace(endorsements / "nvidia.json", board.endorsements(now))
    return _replace(directory / COLLATERAL, collateral)


def _replace(path: Path, data: bytes) -> Path:
    staged = path.with_suffix(".new")
    staged.write_bytes(data)
    return staged.replace(path)


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
