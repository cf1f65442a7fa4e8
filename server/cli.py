"""The whole `tacit` command: the auditor's commands and those of the gateway."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from attestation.cli import run


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    from attestation.commands import FAMILIES as AUDITOR
    from server.commands import FAMILIES as GATEWAY

    return run(argv, families=(*GATEWAY, *AUDITOR))


if __name__ == "__main__":
    sys.exit(main())
