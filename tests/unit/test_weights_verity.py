"""What the kernel says of a mount and its device decides whether a directory is believed."""

import ctypes
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import Malformed, NotAffirmed, Refusal
from attestation.weights.verity import (
    ANSWER_SIZE,
    TABLE_STATUS,
    check_table,
    mounted_device,
    mounts,
    table_request,
)
from tests.block_layer import (
    ACTIVE,
    DEVICE,
    FULL,
    INACTIVE,
    READ_ONLY,
    ROOT,
    SUSPENDED,
    DmIoctl,
    Volume,
    line,
    mount_line,
)

HERE = Path("/srv/models/qwen3")


def judged(**changes) -> None:
    volume = Volume.at(HERE)
    for name, value in changes.items():
        setattr(volume, name, value)
    check_table(volume.answer(), device=DEVICE, root_hash=ROOT)


def device_of(*lines: str, mount_id: int = 40, directory: bytes = bytes(HERE)) -> tuple[int, int]:
    text = "\n".join(lines).encode() + b"\n"
    return mounted_device(text, mount_id=mount_id, directory=directory)


def test_a_live_verity_table_under_the_pinned_root_is_accepted():
    judged()


def test_the_request_is_the_kernels_own_number_and_structure():
    header = Path("/usr/include/linux/dm-ioctl.h")
    size, request = ctypes.sizeof(DmIoctl), table_request(DEVICE)
    assert ((3 << 30) | (size << 16) | (0xFD << 8) | 12) == TABLE_STATUS
    assert len(request) == ANSWER_SIZE
    if header.exists():
        commands = re.findall(r"^\s+(DM_\w+)(?:_CMD)", header.read_text(), re.MULTILINE)
        assert commands.index("DM_TABLE_STATUS") == 12


@pytest.mark.parametrize(
    "options",
    [
        " 1 restart_on_corruption",
        " 2 panic_on_corruption panic_on_error",
        " 1 try_verify_in_tasklet",
        " 3 restart_on_corruption root_hash_sig_key_desc tacit:1",
        " 0",
    ],
)
def test_options_that_weaken_nothing_are_accepted(options):
    judged(parameters=line(options=options))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"parameters": line(bytes(32))}, "verity-root"),
        ({"parameters": line(ROOT[:31])}, "verity-root"),
        ({"parameters": line(options=" 1 ignore_corruption")}, "verity-options"),
        ({"parameters": line(options=" 1 ignore_zero_blocks")}, "verity-options"),
        ({"parameters": line(options=" 1 check_at_most_once")}, "verity-options"),
        ({"parameters": line(options=" 2 root_hash_sig_key_desc x")}, None),
        ({"parameters": line(options=" 2 fec_roots 2")}, "verity-options"),
        ({"parameters": line(options=" 1 of_a_new_kernel")}, "verity-options"),
        ({"parameters": line(options=" 3 root_hash_sig_key_desc x ignore_corruption")},
         "verity-options"),
        ({"parameters": line(options=" 1 restart_on_error ignore_corruption")}, "verity-answer"),
        ({"parameters": line(version="0")}, "verity-device"),
        ({"parameters": line(algorithm="sha1")}, "verity-device"),
        ({"parameters": "0 8:16"}, "verity-answer"),
        ({"parameters": line().replace(ROOT.hex(), "zz")}, "verity-answer"),
        ({"parameters": ""}, "verity-answer"),
        ({"target": b"linear"}, "verity-device"),
        ({"target": b"crypt"}, "verity-device"),
        ({"target": b"verity2"}, "verity-device"),
        ({"targets": 2}, "verity-device"),
        ({"targets": 0}, "verity-device"),
        ({"start": 8}, "verity-device"),
        ({"flags": ACTIVE}, "verity-device"),
        ({"flags": READ_ONLY}, "verity-device"),
        ({"flags": READ_ONLY | ACTIVE | SUSPENDED}, "verity-device"),
        ({"flags": READ_ONLY | ACTIVE | INACTIVE}, "verity-device"),
        ({"flags": READ_ONLY | ACTIVE | FULL}, "verity-answer"),
        ({"device": (253, 301)}, "verity-answer"),
        ({"device": (254, 300)}, "verity-answer"),
    ],
)  # fmt: skip
def test_any_other_table_is_refused_with_its_code(changes, code):
    if code is None:
        judged(**changes)
        return
    with pytest.raises(Refusal) as refused:
        judged(**changes)
    assert refused.value.code == code


def test_a_whole_mounted_volume_names_its_device():
    assert device_of(mount_line("/", number=1), mount_line(str(HERE))) == DEVICE
    spaced = mount_line(r"/srv/a\040b", kind="squashfs", options="ro")
    assert device_of(spaced, directory=b"/srv/a b") == DEVICE


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ((mount_line("/srv"),), "verity-not-mounted"),
        ((mount_line(str(HERE), number=39),), "verity-not-mounted"),
        ((mount_line(str(HERE), root="/old"),), "verity-mount"),
        ((mount_line(str(HERE), kind="overlay"),), "verity-mount"),
        ((mount_line(str(HERE), kind="ext4"),), "verity-mount"),
        ((mount_line(str(HERE), kind="tmpfs"),), "verity-mount"),
        ((mount_line(str(HERE), options="rw,ro_owner"),), "verity-mount"),
        (
            (mount_line(str(HERE)), mount_line(f"{HERE}/config.json", number=41)),
            "verity-mount",
        ),
    ],
)
def test_any_other_mount_is_refused_with_its_code(lines, code):
    with pytest.raises(NotAffirmed) as refused:
        device_of(*lines)
    assert refused.value.code == code


def test_a_neighbour_of_the_mount_is_not_below_it():
    assert device_of(mount_line(str(HERE)), mount_line(f"{HERE}-old", number=41)) == DEVICE


def test_this_kernels_mounts_are_all_understood():
    text = Path("/proc/self/mountinfo").read_bytes()
    assert len(mounts(text)) == text.count(b"\n") > 0


def test_a_carriage_return_in_a_name_begins_no_line():
    assert device_of(mount_line("/srv/a\rb"), directory=b"/srv/a\rb") == DEVICE


@given(at=st.integers(0, 620), value=st.integers(0, 255))
def test_a_changed_byte_of_the_answer_is_refused_or_says_the_same(at, value):
    answer = bytearray(Volume.at(HERE).answer())
    answer[at] = value
    try:
        check_table(bytes(answer), device=DEVICE, root_hash=ROOT)
    except Refusal:
        pass
    else:  # an accepted answer still holds the pinned root and one verity target
        assert ROOT.hex().encode() in bytes(answer).lower()
        assert b"verity\0" in answer
        assert b"ignore" not in answer


@given(st.binary(max_size=700))
def test_any_bytes_in_place_of_the_answer_are_refused(data):
    with pytest.raises(Refusal):
        check_table(data, device=DEVICE, root_hash=ROOT)


@given(st.binary(max_size=200))
def test_any_bytes_in_place_of_mountinfo_are_refused(data):
    with pytest.raises((Malformed, NotAffirmed)):
        mounted_device(data, mount_id=40, directory=bytes(HERE))
