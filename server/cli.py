"""The whole `tacit` command: the auditor's commands and those of the gateway."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from attestation.cli import Register, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    return run(argv, families=_families)


def _families() -> Iterable[Register]:
    from attestation.commands import FAMILIES as AUDITOR
    from server.commands import FAMILIES as GATEWAY

    return (*GATEWAY, *AUDITOR)


if __name__ == "__main__":
    sys.exit(main())
