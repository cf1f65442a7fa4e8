"""The `endorsements` of a settings file in; whoever finds what Intel and NVIDIA say out."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from attestation.codec import Document
from attestation.endorse import Endorser, FileEndorser
from attestation.errors import ConfigError
from attestation.pccs import CachedPccs, Clock, Pccs
from attestation.regular import read_regular

_File = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
_MAX_AUTHORITY = 64 * 1024


class PccsSource(Document):
    """A PCCS, asked at most every `refresh_hours`; what it said is kept in the directory `cache`.

    Nothing here is trusted: Intel's signature on each statement, its dates and the policy's limit
    of age decide. `certificate_authority` keeps strangers from choosing what is stapled.
    """

    pccs: Annotated[str, StringConstraints(pattern=r"^https://[^?#@\s]+$")]
    certificate_authority: _File
    """PEM file of whom the PCCS must be known to; `system` for the machine's own list."""
    cache: _File
    """A directory that exists; `nvidia.json` in it is NVIDIA's word for guests with GPUs."""
    refresh_hours: Annotated[int, Field(ge=1, le=720)]
    update: Literal["standard", "early"] = "standard"


Source = _File | PccsSource
"""A file or directory of collateral, or a PCCS."""


def open_endorser(source: str | PccsSource, *, directory: Path, clock: Clock) -> Endorser:
    """Return the endorser of a settings file that lies in `directory`; nothing is asked yet.

    Raises `ConfigError` where the authority's file or the cache is not there.
    """
    if isinstance(source, str):
        return FileEndorser(directory / source)
    cache = directory / source.cache
    if not cache.is_dir():
        raise ConfigError("config-file-missing", f"{cache}: the cache is not a directory")
    authority = None
    if source.certificate_authority != "system":
        authority = _authority(directory / source.certificate_authority)
    pccs = Pccs(source.pccs, authority, update=source.update)
    return CachedPccs(pccs, cache, timedelta(hours=source.refresh_hours), clock)


def _authority(path: Path) -> ssl.SSLContext:
    try:
        text = read_regular(path, limit=_MAX_AUTHORITY).decode("ascii")
        return ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError):
        raise ConfigError("config-invalid", f"{path.name} holds no certificate") from None
    except OSError as error:
        raise ConfigError("config-file-missing", f"{path}: {error.strerror}") from None
