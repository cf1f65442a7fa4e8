"""NSCQ in; the signed reports of this guest's NVSwitches, or a refusal of open ones, out.

Names, sizes and paths are those of `nscq_attestation.h` and `nscq_attestation_path.h` of NVIDIA's
attestation SDK, API 2.0. NSCQ answers through callbacks that are handed structures by value.
"""

from __future__ import annotations

import contextlib
import ctypes
import hmac
from collections.abc import Iterator
from typing import Any

from attestation.errors import NotAuthentic, Undecidable
from attestation.gpu.evidence import MOST_DEVICES, DeviceEvidence
from attestation.gpu.report import Kind
from attestation.types import nonce as checked_nonce

LIBRARY = "libnvidia-nscq.so.2"
"""As NVIDIA's package installs it for the dynamic linker."""

_MOUNT_DEVICES = 1
_LS10 = 2
_LOCKED = 3
"""NSCQ_DEVICE_TNVL_MODE_LOCKED: trusted NVLink is on and nobody can change it any more."""


class _Uuid(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint8 * 16)]


_UuidPointer = ctypes.POINTER(_Uuid)


class _Label(ctypes.Structure):
    _fields_ = [("data", ctypes.c_char * 64)]


class _Report(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("data", ctypes.c_uint8 * 0x2000)]


class _Chain(ctypes.Structure):
    _fields_ = [("data", ctypes.c_uint8 * 0x1400), ("size", ctypes.c_uint32)]


class _Opened(ctypes.Structure):
    _fields_ = [("rc", ctypes.c_int8), ("session", ctypes.c_void_p)]


class Nscq:
    """The switches that one NSCQ library knows; each question opens a session of its own."""

    def __init__(self, library: str = LIBRARY) -> None:
        """Use `library`, which is loaded when there is something to ask."""
        self._library = library

    def switches(self, nonce: bytes) -> tuple[DeviceEvidence, ...]:
        """Return a report of every switch over the 32 bytes of `nonce`.

        Raises `Undecidable` `gpu-cc-off` for a switch whose links are not locked,
        `gpu-unavailable` when NSCQ does not answer, and `NotAuthentic` `gpu-nonce` for a report
        over another nonce.
        """
        challenge = checked_nonce(nonce)
        with self._session() as session:
            labels = session.labels()
            architectures = session.answers("/{nvswitch}/id/arch", ctypes.c_int8)
            if architectures != [_LS10] * len(labels):
                raise Undecidable("gpu-unavailable", f"switches of architecture {architectures}")
            return tuple(session.evidence(label, challenge) for label in labels)

    @contextlib.contextmanager
    def _session(self) -> Iterator[_Session]:
        try:
            library = ctypes.CDLL(self._library)
            library.nscq_session_create.argtypes = (ctypes.c_uint32,)
            library.nscq_session_create.restype = _Opened
            library.nscq_session_destroy.argtypes = (ctypes.c_void_p,)
            library.nscq_session_destroy.restype = None
            session = _Session(library)
        except (OSError, AttributeError):
            raise Undecidable("gpu-unavailable", f"{self._library} does not load") from None
        opened = library.nscq_session_create(_MOUNT_DEVICES)
        _require(opened.rc, "to open a session")
        try:
            session.handle = opened.session
            yield session
        finally:
            library.nscq_session_destroy(opened.session)


class _Session:
    """Questions to an open session; `handle` is set once it is open."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.handle: int | None = None
        self._set_input = library.nscq_session_set_input
        self._set_input.argtypes = (
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_void_p,
            ctypes.c_uint32,
        )
        self._observe = library.nscq_session_path_observe
        self._observe.argtypes = (
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_uint32,
        )
        self._label = library.nscq_uuid_to_label
        self._label.argtypes = (
            _UuidPointer,
            ctypes.POINTER(_Label),
            ctypes.c_uint32,
        )
        for function in (self._set_input, self._observe, self._label):
            function.restype = ctypes.c_int8

    def labels(self) -> list[str]:
        """Return the label of each switch, by which paths name it."""
        found = self.answers("/drv/nvswitch/{device}/uuid", _UuidPointer)
        if not 1 <= len(found) <= MOST_DEVICES:
            raise Undecidable("gpu-unavailable", f"NSCQ counts {len(found)} switches")
        labels = []
        for uuid in found:
            label = _Label()
            _require(self._label(ctypes.byref(uuid), ctypes.byref(label), 0), "a label")
            labels.append(label.data.decode("ascii", "replace"))
        return labels

    def evidence(self, label: str, nonce: bytes) -> DeviceEvidence:
        """Ask one switch, after it said that its links are locked."""
        mode = self._one(f"/{label}/config/pcie_mode", ctypes.c_int8)
        if mode != _LOCKED:
            raise Undecidable("gpu-cc-off", f"switch {label} is in trusted-NVLink mode {mode}")
        chain = self._one(f"/{label}/config/certificate", _Chain)
        _require(self._set_input(self.handle, 0, nonce, len(nonce)), "a nonce")
        answer = self._one(f"/{label}/config/attestation_report", _Report)
        report = _filled(answer, label)
        if not hmac.compare_digest(report[4:36], nonce):
            raise NotAuthentic("gpu-nonce", f"switch {label} answered another nonce")
        try:
            text = _filled(chain, label).rstrip(b"\0").decode("ascii")
        except UnicodeDecodeError:
            raise Undecidable("gpu-unavailable", f"switch {label} has no PEM chain") from None
        return DeviceEvidence(Kind.SWITCH, "ls10", report, text)

    def answers(self, path: str, kind: Any) -> list[Any]:
        """Return what is observed at `path`, one value of `kind` for each device."""
        codes: list[int] = []
        values: list[Any] = []

        def take(_device: Any, code: int, value: Any, _data: Any) -> None:
            codes.append(code)
            if code == 0:
                values.append(_copied(value))

        form = ctypes.CFUNCTYPE(None, _UuidPointer, ctypes.c_int8, kind, ctypes.c_void_p)
        callback = form(take)  # kept until NSCQ has called it
        address = ctypes.cast(callback, ctypes.c_void_p)
        observed = self._observe(self.handle, path.encode(), address, None, 0)
        for code in (observed, *codes):
            _require(code, path)
        if len(values) != len(codes):  # an answer that could not be taken must not go missing
            raise Undecidable("gpu-unavailable", f"NSCQ has no value at {path}")
        return values

    def _one(self, path: str, kind: Any) -> Any:
        found = self.answers(path, kind)
        if len(found) != 1:
            raise Undecidable("gpu-unavailable", f"NSCQ has {len(found)} answers at {path}")
        return found[0]


def _copied(value: Any) -> Any:
    """Return a structure in place of a pointer: NSCQ's memory is its own again afterwards."""
    return _Uuid.from_buffer_copy(value.contents) if isinstance(value, _UuidPointer) else value


def _filled(answer: _Report | _Chain, label: str) -> bytes:
    if answer.size > len(answer.data):
        raise Undecidable("gpu-unavailable", f"switch {label} states {answer.size} bytes")
    return bytes(answer.data)[: answer.size]


def _require(code: int, what: str) -> None:
    """Raise unless NSCQ succeeded; its warnings are answers with something missing."""
    if code != 0:
        raise Undecidable("gpu-unavailable", f"NSCQ refuses {what} with {code}")
