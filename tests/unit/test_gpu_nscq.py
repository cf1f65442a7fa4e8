"""Collecting from switches through NSCQ's own C interface, of a library compiled here."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from attestation.errors import NotAuthentic, Refusal, Undecidable
from attestation.gpu.evidence import GpuEvidence
from attestation.gpu.nscq import Nscq
from attestation.gpu.verify import verify_gpu
from tests.appraisal_world import NOW
from tests.gpu_world import baseboard, nvidia

NONCE = bytes(range(32))
SOURCE = Path(__file__).parents[1] / "nscq.c"


class _Report(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("data", ctypes.c_uint8 * 0x2000)]


class _Chain(ctypes.Structure):
    _fields_ = [("data", ctypes.c_uint8 * 0x1400), ("size", ctypes.c_uint32)]


class Library:
    """The compiled library and what its switches are to answer."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._c = ctypes.CDLL(self.path)
        self.nonce = (ctypes.c_uint8 * 32).in_dll(self._c, "sw_nonce")
        self.reports = (_Report * 4).in_dll(self._c, "sw_reports")
        self.chains = (_Chain * 4).in_dll(self._c, "sw_chains")
        self.set(count=4, open=0, arch=2, mode=3)
        self.set(rc_create=0, rc_observe=0, rc_callback=0, rc_input=0)
        switches = [d for d in baseboard(NONCE).devices if d.kind.value == "switch"]
        for at, device in enumerate(switches):
            pem = device.certificates.encode()
            self.reports[at].data[: len(device.report)] = device.report
            self.reports[at].size = len(device.report)
            self.chains[at].data[: len(pem)] = pem
            self.chains[at].size = len(pem)

    def set(self, **values: int) -> None:
        for name, value in values.items():
            self.byte(name).value = value

    def byte(self, name: str) -> ctypes.c_int8:
        return ctypes.c_int8.in_dll(self._c, f"sw_{name}")

    def refused(self) -> tuple[type, str, str]:
        with pytest.raises(Refusal) as refusal:
            Nscq(self.path).switches(NONCE)
        assert self.byte("open").value == 0
        return type(refusal.value), refusal.value.code, refusal.value.why


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is on this machine")
    made = tmp_path_factory.mktemp("nscq") / "libnscq.so"
    flags = ["-shared", "-fPIC", "-Wall", "-Werror", "-o", str(made)]
    subprocess.run([compiler, *flags, str(SOURCE)], check=True)
    return made


@pytest.fixture
def nscq(compiled):
    return Library(compiled)


def test_what_nscq_says_of_four_switches_verifies_beside_their_gpus(nscq):
    switches = Nscq(nscq.path).switches(NONCE)
    assert (len(switches), bytes(nscq.nonce), nscq.byte("open").value) == (4, NONCE, 0)
    gpus = tuple(d for d in baseboard(NONCE).devices if d.kind.value == "gpu")
    evidence = GpuEvidence.parse(GpuEvidence(gpus + switches).to_bytes())
    assert evidence == baseboard(NONCE)
    store = nvidia().endorsements(evidence)
    assert len(verify_gpu(evidence, store, nonce=NONCE, roots=nvidia().roots, now=NOW)) == 12


@pytest.mark.parametrize("mode", [-1, 0, 1, 2])
def test_a_switch_whose_links_are_not_locked_is_not_collected_from(nscq, mode):
    nscq.set(mode=mode)
    assert nscq.refused() == (
        Undecidable,
        "gpu-cc-off",
        f"switch SWX-00 is in trusted-NVLink mode {mode}",
    )


def test_a_recorded_report_of_a_switch_is_noticed_before_it_is_sent(nscq):
    nscq.reports[2].data[4] ^= 1
    refused = (NotAuthentic, "gpu-nonce", "switch SWX-02 answered another nonce")
    assert nscq.refused() == refused


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"count": 0}, "NSCQ counts 0 switches"),
        ({"arch": 1}, "switches of architecture [1, 1, 1, 1]"),
        ({"rc_create": -7}, "NSCQ refuses to open a session with -7"),
        ({"rc_create": 1}, "NSCQ refuses to open a session with 1"),
        ({"rc_observe": -8}, "NSCQ refuses /drv/nvswitch/{device}/uuid with -8"),
        ({"rc_callback": -6}, "NSCQ refuses /drv/nvswitch/{device}/uuid with -6"),
        ({"rc_input": -4}, "NSCQ refuses a nonce with -4"),
    ],
)
def test_what_nscq_refuses_or_warns_of_decides_nothing(nscq, values, why):
    nscq.set(**values)
    assert nscq.refused() == (Undecidable, "gpu-unavailable", why)


def test_sizes_that_nscq_states_are_not_read_past_its_memory(nscq):
    nscq.reports[0].size = 0x2001
    assert nscq.refused()[2] == "switch SWX-00 states 8193 bytes"
    nscq.reports[0].size = 8
    assert nscq.refused()[1] == "gpu-nonce"
    nscq.set(count=4)
    nscq.reports[0].size = 0x2000
    nscq.chains[0].size = 0xFFFFFFFF
    assert nscq.refused()[2] == "switch SWX-00 states 4294967295 bytes"


@pytest.mark.parametrize("library", ["libnvidia-nscq.so.2", "libc.so.6"])
def test_a_guest_without_the_library_says_so(library):
    with pytest.raises(Undecidable, match=f"{library} does not load") as refusal:
        Nscq(library).switches(NONCE)
    assert refusal.value.code == "gpu-unavailable"


def test_a_nonce_of_another_size_is_not_handed_to_switches(nscq):
    with pytest.raises(Refusal):
        Nscq(nscq.path).switches(bytes(31))
