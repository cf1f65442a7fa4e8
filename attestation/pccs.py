"""Collateral from a caching service on the premises, kept in files for when that is away."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from attestation.endorse import FileEndorser
from attestation.errors import Malformed, Undecidable
from attestation.https import Https
from attestation.pcs import Answers, Authority, Response, paths
from attestation.regular import replace_regular
from attestation.tdx.collateral import MAX_COLLATERAL
from attestation.tdx.quote import collateral_key
from attestation.types import Endorsements

Clock = Callable[[], datetime]

RETRY = timedelta(minutes=1)
"""How long kept files answer alone after the PCCS was away."""
_MOST_FAILED = 256


@dataclass(frozen=True, slots=True)
class Pccs:
    """A PCCS, or Intel's own service: where it is, and whose certificate it must present."""

    url: str
    authority: ssl.SSLContext | None = None
    """`None`: the system's certificate authorities. What comes is signed by Intel either way."""
    timeout_s: float = 20
    update: Literal["standard", "early"] = "standard"

    def collateral(self, *, fmspc: str, ca: Authority) -> bytes:
        """Fetch the collateral of a platform.

        Raises `Undecidable` `pccs-unreachable`, also for any answer but 200; `Malformed`
        `pcs-response` for what does not follow API version 4.
        """
        wanted = paths(fmspc=fmspc, ca=ca, update=self.update)
        with Https(
            self.url,
            authority=self.authority,
            timeout_s=self.timeout_s,
            limit=MAX_COLLATERAL,
            who="the PCCS",
            wanted="collateral",
            code="pccs-unreachable",
        ) as https:
            answers = {
                name: Response(*https.ask(path, what=path.partition("?")[0]))
                for name, path in wanted.items()
            }
        return Answers(**answers).collateral()


@dataclass(frozen=True, slots=True)
class CachedPccs:
    """An `Endorser` that asks a PCCS once per `refresh` and falls back on the files it kept.

    Old files are no pass: whoever verifies refuses collateral past Intel's own date, and past the
    age a policy allows. A quote names its platform before anybody verified it, so one request at a
    time asks: strangers who invent platforms cannot multiply themselves at the PCCS, and no answer
    waits for one that a file can give.
    """

    pccs: Pccs
    directory: Path
    refresh: timedelta
    clock: Clock
    _asking: threading.Lock = field(default_factory=threading.Lock)
    _failed: dict[str, datetime] = field(default_factory=dict)

    def endorsements(self, quote: bytes) -> Endorsements:
        """Return collateral for the platform `quote` claims, or raise `Undecidable`."""
        key = collateral_key(quote)
        path = self.directory / f"{key}.json"
        fetched = b"" if self._fresh(path) else self._refreshed(path, key)
        if fetched:
            return Endorsements(fetched, self.gpu())
        return FileEndorser(self.directory).endorsements(quote)

    def gpu(self) -> bytes:
        """Return NVIDIA's statements, which the operator puts beside the kept files."""
        return FileEndorser(self.directory).gpu()

    def _refreshed(self, path: Path, key: str) -> bytes:
        """Return what the PCCS says now, nothing where the kept file is all there is for now."""
        kept = path.exists()
        if not self._asking.acquire(blocking=not kept):
            return b""
        try:
            if self._fresh(path) or (kept and self._just_failed(key)):
                return b""
            fetched = self._asked(key)
            with contextlib.suppress(OSError):  # a full disk; what was fetched is as good
                replace_regular(path, fetched, mode=0o666)
        except Undecidable:
            self._note(key)
            if not kept:
                raise
            return b""
        finally:
            self._asking.release()
        return fetched

    def _asked(self, key: str) -> bytes:
        fmspc, _, name = key.partition("-")
        ca: Authority = "platform" if name == "platform" else "processor"
        try:
            return self.pccs.collateral(fmspc=fmspc, ca=ca)
        except Malformed:  # by the PCCS, not by the guest that waits for it
            why = "the PCCS answered with something that is not collateral"
            raise Undecidable("pccs-unreachable", why) from None

    def _just_failed(self, key: str) -> bool:
        failed = self._failed.get(key)
        return failed is not None and timedelta() <= self.clock() - failed < RETRY

    def _note(self, key: str) -> None:
        if len(self._failed) >= _MOST_FAILED:
            self._failed.clear()
        self._failed[key] = self.clock()

    def _fresh(self, path: Path) -> bool:
        try:
            written = path.stat().st_mtime
        except OSError:
            return False
        age = self.clock().timestamp() - written
        return 0 <= age < self.refresh.total_seconds()
