"""Fuzz one parser in this process until the time is up; libFuzzer ends the process."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["attestation"]):
    from attestation.errors import ConfigError, Refusal
    from tests.parsers import parsers


def main(name: str, *options: str) -> None:
    """Feed `parsers()[name]`; whatever it raises but a refusal is a crash."""
    read = parsers()[name].read

    def feed(data: bytes) -> None:
        try:
            read(data)
        except (Refusal, ConfigError):
            return

    atheris.Setup([sys.argv[0], *options], feed)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
