"""One module a command family; each has `register(commands)` that adds its parsers."""

from __future__ import annotations

from attestation.commands import (
    broker,
    broker_admin,
    endorse,
    explain,
    inspect,
    kek,
    policy,
    seal,
    verify,
)

FAMILIES = (
    verify.register,
    explain.register,
    inspect.register,
    policy.register,
    endorse.register,
    seal.register,
    broker.register,
    broker_admin.register,
    kek.register,
)
"""What `tacit` offers on the base install; every entry adds one family of commands."""
