"""A SoftHSM2 token in a directory of its own, for tests of what an HSM does."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PLACES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
)
PIN = "4711-0815"


def new_token(directory: Path) -> str:
    """Make a token called `tacit` and return the URI of its key `kek`, which does not exist yet.

    SoftHSM finds its tokens through one environment variable, read when the module is loaded;
    so one process has one directory of tokens.
    """
    module = next((place for place in PLACES if Path(place).exists()), None)
    tool = shutil.which("softhsm2-util")
    if module is None or tool is None:
        pytest.skip("SoftHSM2 is not installed (Debian package softhsm2)")
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
    (directory / "tokens").mkdir()
    (directory / "softhsm2.conf").write_text(f"directories.tokendir = {directory}/tokens\n")
    os.environ["SOFTHSM2_CONF"] = str(directory / "softhsm2.conf")
    run = [tool, "--init-token", "--free", "--label", "tacit", "--so-pin", PIN, "--pin", PIN]
    subprocess.run(run, check=True, capture_output=True)
    pin = directory / "pin"
    pin.write_text(PIN + "\n")
    pin.chmod(0o600)
    return f"pkcs11:token=tacit;object=kek?module-path={module}&pin-source={pin}"
