"""What stands in place of a file is refused at once, whoever reads or writes it."""

import errno
import os
import ssl
from pathlib import Path

import pytest

from attestation.commands import files
from attestation.endorse import FileEndorser
from attestation.errors import ConfigError, Undecidable
from attestation.regular import place_to_write, read_regular
from attestation.weights.journal import JOURNAL, Journal


@pytest.fixture
def pipe(tmp_path) -> Path:
    """Return a pipe nobody writes to: opening it for reading would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_file_is_read_up_to_a_byte_past_its_limit(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", limit=3) == b"1234"
    assert read_regular(tmp_path / "file", limit=5) == b"12345"


@pytest.mark.parametrize("what", ["/dev/zero", "/dev/full", "pipe", "link"])
def test_a_pipe_or_device_is_not_read(tmp_path, pipe, what):
    (tmp_path / "link").symlink_to(pipe)
    with pytest.raises(ConfigError, match="a pipe or device, not a file") as refusal:
        files.read(tmp_path / what)
    assert refusal.value.code == "file-unreadable"


def test_a_login_in_a_pipe_is_refused_and_not_waited_for(tmp_path, pipe):
    (tmp_path / "cert").write_text("")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for certificate, key in ((pipe, None), (tmp_path / "cert", pipe)):
        with pytest.raises(OSError, match="a pipe or device"):
            files.load_identity(context, certificate, key=key)


def test_a_sealing_run_is_not_resumed_from_a_pipe(tmp_path):
    os.mkfifo(tmp_path / JOURNAL)
    with pytest.raises(ConfigError) as refusal:
        Journal.resume(tmp_path)
    assert refusal.value.code == "seal-resume"


def test_collateral_in_a_pipe_is_missing_collateral(pipe):
    with pytest.raises(Undecidable) as refusal:
        FileEndorser(pipe).endorsements(b"")
    assert refusal.value.code == "endorsements-missing"


@pytest.mark.parametrize("what", ["/dev/full", "pipe", "link", "."])
def test_nothing_that_is_no_file_is_replaced(tmp_path, pipe, what):
    (tmp_path / "link").symlink_to(pipe)
    before = (tmp_path / what).stat()
    with pytest.raises(ConfigError) as refusal:
        files.write(tmp_path / what, b"report")
    assert refusal.value.code == "file-unwritable"
    after = (tmp_path / what).stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_a_place_that_leads_to_itself_is_not_written(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for act in (files.read, lambda path: files.write(path, b"report")):
        with pytest.raises(ConfigError, match="symbolic links"):
            act(tmp_path / "loop")


def test_a_directory_in_place_of_a_file_costs_no_descriptor(tmp_path):
    before = len(tuple(Path("/proc/self/fd").iterdir()))
    for _ in range(8):
        with pytest.raises(IsADirectoryError):
            read_regular(tmp_path, limit=1)
    assert len(tuple(Path("/proc/self/fd").iterdir())) == before


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    files.write(tmp_path / "link", b"one")
    files.write(tmp_path / "link", b"two")
    assert (tmp_path / "there" / "file").read_bytes() == b"two"
    assert (tmp_path / "link").is_symlink()


def test_a_directory_says_what_it_is(tmp_path):
    with pytest.raises(IsADirectoryError) as refusal:
        place_to_write(tmp_path)
    assert refusal.value.errno == errno.EISDIR
