"""A directory in, a software-TDX installation in it out, made with the commands operators use."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from attestation.confidential import Confidential
from attestation.errors import ConfigError
from attestation.simulator.__main__ import main as simulator
from scripts.chain.processes import TACIT, call, run, show
from server.apikeys import KeyRing
from server.cli import main as tacit

MODEL = "qwen3-demo"
PEPPER = "tacit/demo/api-key-pepper"
TENANT = "demo"
GOLDEN = ".golden.json"
"""Where a checkpoint may keep its golden output; the name is hidden, so it is not sealed."""


@dataclass(frozen=True, slots=True)
class Installation:
    """Where everything lies. What exists is kept; what depends on a change is made anew."""

    directory: Path
    config: Path
    """The measured YAML of `tacit serve`."""

    @property
    def tdx(self) -> Path:
        return self.directory / "tdx"

    @property
    def broker_config(self) -> Path:
        return self.directory / "broker" / "broker.yaml"

    @property
    def policy(self) -> Path:
        return self.directory / "policy.yaml"

    @property
    def api_key(self) -> Path:
        """The file with the one API key, for the demonstration's own client."""
        return self.directory / "api-key"

    @property
    def sealed(self) -> Path:
        return self.directory / "sealed" / MODEL

    def prepare(self, checkpoints: Mapping[str, Path], *, broker_port: int) -> None:
        """Make keys, seal `checkpoints`, and write the policy that accepts exactly this guest.

        `checkpoints` are the models by the names they are served under.
        """
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._trust_root()
        self._broker(broker_port, models=checkpoints)
        self._api_key()
        for name, checkpoint in checkpoints.items():
            self._seal(name, checkpoint)
        self.write_policy()

    def _trust_root(self) -> None:
        action = "collateral" if (self.tdx / "root.pem").exists() else "new"
        call(simulator, [action, self.tdx])
        if not (self.tdx / "nvidia").exists():
            call(simulator, ["gpus", self.tdx, "--gpus", 1])

    def _broker(self, port: int, *, models: Iterable[str]) -> None:
        names = {key_of(name): ("model-key", f"../sealed/{name}.key.json") for name in models}
        names[PEPPER] = ("secret", "pepper.json")
        document = {
            "version": 1,
            "profile": "simulated",
            "listen": {"host": "127.0.0.1", "port": port},
            "tls": {"certificate": "tls.crt", "key": "tls.key"},
            "store": "sqlite:broker.db",
            "kek": "file:kek",
            "token_key": "token.pem",
            "endorsements": "../tdx/endorsements",
            "policy": "../policy.yaml",
            "resources": [
                {"resource": name, "kind": kind, "wrapped_key": file, "policy": "../policy.yaml"}
                for name, (kind, file) in names.items()
            ],
            "limits": {"sessions": 1024, "session_seconds": 300},
        }
        self.broker_config.parent.mkdir(exist_ok=True, mode=0o700)
        self.broker_config.write_text(yaml.safe_dump(document, sort_keys=False))
        call(tacit, ["broker", self.broker_config, "--init"])

    def _api_key(self) -> None:
        broker, keys = self.broker_config.parent, self.directory / "api-keys.yaml"
        kept = broker / "pepper"
        if self.api_key.exists() and _is_readable(keys, kept):
            return
        pepper = secrets.token_bytes(32)
        keys.unlink(missing_ok=True)
        kept.touch(mode=0o600)
        kept.write_bytes(pepper)
        words = ["--key", f"file:{broker}/kek", "--out", broker / "pepper.json"]
        run([TACIT, "wrap", PEPPER, *words], stdin=pepper)
        words = ["--tenant", TENANT, "--pepper", kept, "--keys", keys, "--json"]
        made: dict[str, Any] = json.loads(call(tacit, ["apikey", "new", *words]))
        self.api_key.touch(mode=0o600)
        self.api_key.write_text(made["key"])

    def _seal(self, name: str, checkpoint: Path) -> None:
        """Seal once per state of the checkpoint."""
        signer = self.directory / "keys" / "model-signer.pem"
        sealed = self.sealed.with_name(name)
        wrapped = sealed.with_name(f"{name}.key.json")
        stamp = sealed.with_name(f"{name}.stamp")
        state = _state(checkpoint)
        if not (stamp.exists() and stamp.read_text() == state):
            if not signer.exists():
                signer.parent.mkdir(exist_ok=True, mode=0o700)
                call(tacit, ["keygen", signer])
            shutil.rmtree(sealed, ignore_errors=True)
            wrapped.unlink(missing_ok=True)
            sealed.parent.mkdir(exist_ok=True, mode=0o700)
            key = f"file:{self.broker_config.parent}/kek"
            words = ["--key", key, "--resource", key_of(name), "--sign", signer, "--name", name]
            if (golden := checkpoint / GOLDEN).exists():
                words += ["--golden", golden]
            show([TACIT, "seal", checkpoint, sealed, *words])
            stamp.write_text(state)

    def write_policy(self) -> None:
        """Write the policy that accepts what this installation measures, and nothing else."""
        measured: dict[str, Any] = json.loads(call(tacit, ["measure", self.config, "--json"]))
        words = ["--config", measured["config"]]
        words += [w for m in measured["models"].items() for w in ("--model", "=".join(m))]
        text = call(simulator, ["policy", self.tdx, *words])
        self.policy.write_text(text)


def key_of(model: str) -> str:
    """Return the broker's name for the key of a model."""
    return f"tacit/demo/{model}"


def _is_readable(keys: Path, pepper: Path) -> bool:
    try:
        KeyRing.load(keys.read_bytes(), Confidential(pepper.read_bytes()), name=keys.name)
    except (ConfigError, OSError):
        return False
    return True


def configure(template: Path, target: Path, *, state: Path, changes: dict[str, Any]) -> Path:
    """Write `template` to `target` with `changes` and with its paths below `state`.

    `changes` maps a dotted path of the YAML to its new value; the comments are lost.
    """
    document = yaml.safe_load(template.read_text())
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = document
        for name in parents:
            place = place[name]
        place[last] = value
    text = yaml.safe_dump(document, sort_keys=False)
    target.write_text(text.replace("../.tacit", str(state)))
    return target


def _state(checkpoint: Path) -> str:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    lines = (
        f"{p.relative_to(checkpoint)} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files
    )
    return "\n".join(lines)
