"""What an engine leaves: removed if it is the engine's, kept if it may be somebody else's."""

import mmap
import os
import socket
from pathlib import Path

from server.engine.leftovers import SharedMemory, make_private, remove_socket, remove_tree


def test_new_segments_are_removed_and_old_ones_kept(tmp_path):
    memory, record = tmp_path / "shm", tmp_path / "record"
    memory.mkdir()
    (memory / "psm_before").touch()
    shared = SharedMemory(memory, record=record)
    shared.begin()
    for name in ("psm_new", "vllm_new", "psm_new.lock", "other_program"):
        (memory / name).touch()
    shared.end()
    assert {path.name for path in memory.iterdir()} == {"psm_before", "other_program"}
    assert not record.exists()


def test_the_next_start_finishes_what_a_killed_gateway_could_not(tmp_path):
    memory, record = tmp_path / "shm", tmp_path / "record"
    memory.mkdir()
    SharedMemory(memory, record=record).begin()
    (memory / "psm_orphan").touch()
    SharedMemory(memory, record=record).begin()
    assert list(memory.iterdir()) == []


def test_without_a_record_nothing_is_removed(tmp_path):
    (tmp_path / "psm_old").touch()
    SharedMemory(tmp_path, record=tmp_path / "record").end()
    assert (tmp_path / "psm_old").exists()


def test_a_link_is_never_followed_or_removed(tmp_path):
    memory, precious = tmp_path / "shm", tmp_path / "precious"
    memory.mkdir()
    precious.touch()
    shared = SharedMemory(memory, record=tmp_path / "record")
    shared.begin()
    (memory / "psm_link").symlink_to(precious)
    shared.end()
    assert precious.exists()
    assert (memory / "psm_link").is_symlink()


def test_a_segment_that_a_process_maps_is_kept(tmp_path):
    name = f"psm_mapped_{os.getpid()}"
    path = Path("/dev/shm", name)
    shared = SharedMemory(Path("/dev/shm"), record=tmp_path / "record")
    shared.begin()
    with path.open("w+b") as file:
        file.truncate(4096)
        with mmap.mmap(file.fileno(), 4096):
            shared.end()
            assert path.exists()
    path.unlink()


def test_only_a_socket_is_removed(tmp_path):
    path = tmp_path / "x"
    path.write_text("mine")
    remove_socket(path)
    assert path.read_text() == "mine"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
    remove_socket(path)
    assert not path.exists()
    remove_socket(path)


def test_a_private_directory_is_empty_and_closed_to_others(tmp_path):
    path = tmp_path / "scratch"
    path.mkdir()
    (path / "old").touch()
    make_private(path)
    assert list(path.iterdir()) == []
    assert path.stat().st_mode & 0o777 == 0o700
    remove_tree(path)
    remove_tree(path)
