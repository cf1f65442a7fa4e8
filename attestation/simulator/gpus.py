"""Software GPUs on disk: a board and its mock NVIDIA in; certificates and signed reports out.

DIR/nvidia/board.json           seed of the mock NVIDIA and the devices (0600)
DIR/nvidia/device-root.pem, rim-root.pem    its trust anchors, for policies and configurations
DIR/gpu/state.json              what NVML says of the system and of each device; nothing secret
DIR/gpu/asked/<device>.<nonce hex>.<random>    a guest makes it, empty; it vanishes when answered
DIR/gpu/answered/<same name>    the signed report; the guest takes it away
DIR/gpu/ready                   a guest writes 1: the GPUs may take work; it vanishes at a boot
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from attestation.codec import Document, b64, parse_document, unb64
from attestation.errors import ConfigError
from attestation.gpu.insecure_nvml import SoftwareDevice, SoftwareSettings, SoftwareState
from attestation.gpu.report import OFF
from attestation.simulator.nvidia import GPU, SWITCHES, MockNvidia
from attestation.simulator.nvidia_report import DeviceState

_ANY_NONCE = bytes(32)
NVIDIA = "nvidia"
BOARD = "board.json"
DEVICE_ROOT, RIM_ROOT = "device-root.pem", "rim-root.pem"

Architecture = Literal["hopper", "blackwell"]

_FEATURE = {"spt": 0, "mpt": 1, "ppcie": 2}
_ASKED = re.compile(r"([0-9]{1,2})\.([0-9a-f]{64})\.[0-9a-f]{16}")
CONFIDENTIAL = SoftwareSettings(environment=2, cc_feature=1, dev_tools_mode=0, multi_gpu_mode=0)
PROTECTED_PCIE = CONFIDENTIAL.model_copy(update={"cc_feature": 0, "multi_gpu_mode": 1})


class _BoardDocument(Document):
    version: Literal[1]
    seed: str
    created: AwareDatetime
    gpus: Annotated[int, Field(ge=1, le=8)]
    switches: Literal[0, 4]
    architecture: Architecture


@dataclass(frozen=True)
class Board:
    """The devices of one guest and the NVIDIA that made them."""

    nvidia: MockNvidia
    gpus: int
    switches: int
    architecture: Architecture

    def __post_init__(self) -> None:
        """Refuse boards that NVIDIA does not make."""
        if not 1 <= self.gpus <= 8:
            raise ConfigError("simulator-board", f"{self.gpus} GPUs; a board has one to eight")
        if self.switches and (self.switches, self.gpus, self.architecture) != (4, 8, "hopper"):
            raise ConfigError("simulator-board", "switches come as four, with eight Hopper GPUs")

    @property
    def mode(self) -> Literal["spt", "mpt", "ppcie"]:
        """How the GPUs are shared out."""
        if self.switches:
            return "ppcie"
        return "mpt" if self.architecture == "blackwell" and self.gpus > 1 else "spt"

    @cached_property
    def state(self) -> DeviceState:
        """What every GPU of the board states."""
        state = GPU
        if self.architecture == "blackwell":
            state = replace(GPU, chip="GB100")
        if not self.switches:
            state = replace(state, protected_pcie=OFF, switch_ids=())
        return replace(state, feature=_FEATURE[self.mode])

    @cached_property
    def devices(self) -> tuple[tuple[DeviceState, str], ...]:
        """State and name of each device, GPUs first."""
        gpus = tuple((self.state, f"gpu {index}") for index in range(self.gpus))
        return gpus + tuple((SWITCHES[i], f"switch {i}") for i in range(self.switches))

    def endorsements(self, now: datetime) -> bytes:
        """Return NVIDIA's statements about these devices, issued at `now`."""
        evidence = self.nvidia.evidence(
            _ANY_NONCE, gpus=self.gpus, switches=self.switches, state=self.state
        )
        return self.nvidia.endorsements(evidence, now=now, state=self.state).to_bytes()


class SoftwareGpus:
    """Serves a board below one directory; everything a device states can be given by a test."""

    def __init__(
        self,
        directory: Path,
        board: Board,
        *,
        devices: Sequence[tuple[DeviceState, str]] | None = None,
        settings: SoftwareSettings | None = None,
        replayed: bytes | None = None,
    ) -> None:
        """`devices` replaces those of the board, `replayed` the nonce that reports answer."""
        self._directory = directory / "gpu"
        self._board = board
        self._devices = tuple(board.devices if devices is None else devices)
        usual = PROTECTED_PCIE if board.switches else CONFIDENTIAL
        self._settings = usual if settings is None else settings
        self._replayed = replayed

    def boot(self) -> None:
        """Show the devices to a fresh guest: nothing asked, nothing answered, no work taken."""
        shutil.rmtree(self._directory, ignore_errors=True)
        for name in ("asked", "answered"):
            (self._directory / name).mkdir(parents=True)
        state = SoftwareState(
            version=1,
            settings=self._settings,
            devices=tuple(self._shown(*device) for device in self._devices),
        )
        self._publish("state.json", state.model_dump_json().encode())

    def poll(self) -> bool:
        """Answer whatever is asked; say whether anything was."""
        asked = [path for path in (self._directory / "asked").iterdir() if path.is_file()]
        for request in asked:
            found = _ASKED.fullmatch(request.name)
            if found is not None and int(found[1]) < len(self._devices):
                state, unit = self._devices[int(found[1])]
                nonce = bytes.fromhex(found[2]) if self._replayed is None else self._replayed
                report = self._board.nvidia.device(state, unit=unit, nonce=nonce).report
                self._publish(f"answered/{request.name}", report)
            request.unlink(missing_ok=True)
        return bool(asked)

    def _shown(self, state: DeviceState, unit: str) -> SoftwareDevice:
        device = self._board.nvidia.device(state, unit=unit, nonce=_ANY_NONCE)
        return SoftwareDevice.model_validate(
            {
                "kind": device.kind.value,
                "arch": device.arch,
                "certificates": device.certificates,
            }
        )

    def _publish(self, name: str, data: bytes) -> None:
        """Let `data` appear whole; a guest that is gone is no matter."""
        staged = self._directory / f".{secrets.token_hex(8)}"
        staged.write_bytes(data)
        with contextlib.suppress(FileNotFoundError):
            staged.replace(self._directory / name)


def save(directory: Path, board: Board) -> None:
    """Put `board` into the simulator's `directory`, instead of any other."""
    document = _BoardDocument(
        version=1,
        seed=b64(board.nvidia.seed),
        created=board.nvidia.created,
        gpus=board.gpus,
        switches=4 if board.switches else 0,
        architecture=board.architecture,
    )
    keys = directory / NVIDIA
    shutil.rmtree(keys, ignore_errors=True)
    keys.mkdir(mode=0o700)
    descriptor = os.open(keys / BOARD, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(document.model_dump_json().encode())
    (keys / DEVICE_ROOT).write_text(board.nvidia.device_root.pem)
    (keys / RIM_ROOT).write_text(board.nvidia.rim_root.pem)


def load(directory: Path) -> Board | None:
    """Restore the board in the simulator's `directory`; `None` where it has no GPUs."""
    try:
        data = (directory / NVIDIA / BOARD).read_bytes()
    except FileNotFoundError:
        return None
    kept = parse_document(_BoardDocument, data, limit=4096)
    nvidia = MockNvidia(unb64(kept.seed, what="seed"), kept.created)
    return Board(nvidia, kept.gpus, kept.switches, kept.architecture)


def policy_lines(board: Board) -> tuple[str, ...]:
    """Return the YAML of a policy's `gpu` section that asks for exactly this board."""
    vbios = [board.state.vbios, *(state.vbios for state in SWITCHES[: board.switches])]
    listed = ", ".join(f'"{version}"' for version in dict.fromkeys(vbios))
    return (
        "gpu:",
        f"  gpus: {board.gpus}",
        f"  switches: {board.switches}",
        f"  architectures: [{board.architecture}]",
        f"  modes: [{board.mode}]",
        f"  protected_pcie: {'required' if board.switches else 'any'}",
        f'  drivers: ["{board.state.driver}"]',
        f"  vbios: [{listed}]",
        "  measurements: nvidia",
        "  ocsp_max_age_days: 7",
    )
