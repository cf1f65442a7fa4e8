"""One module a command family of the gateway; each has `register(commands)`."""

from __future__ import annotations

from server.commands import apikey, doctor, measure, prove, serve

FAMILIES = (serve.register, doctor.register, measure.register, prove.register, apikey.register)
"""What the gateway adds to the auditor's commands."""
