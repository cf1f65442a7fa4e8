"""The loader's side of the key agent's socket."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tacit_vllm import keyclient

from attestation.confidential import data_key
from attestation.errors import Malformed, NotAffirmed, Undecidable
from attestation.keywire import Ask, Grant, LoaderSettings, Noted, Refused, decode_question, encode
from attestation.types import Digest

GRANT = Grant(data_key(b"k" * 32), Digest.sha256(b"m"), 3)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[bytes], tuple[LoaderSettings, list[bytes]]]]:
    """Answer one connection with the given bytes; the list receives what was asked."""
    threads: list[threading.Thread] = []

    def start(answer: bytes) -> tuple[LoaderSettings, list[bytes]]:
        heard: list[bytes] = []
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(tmp_path / "agent"))
        listener.listen()

        def run() -> None:
            connection, _ = listener.accept()
            with listener, connection, connection.makefile("rb") as lines:
                heard.append(lines.readline())
                connection.sendall(answer)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return settings(tmp_path), heard

    yield start
    for thread in threads:
        thread.join(10)


def settings(directory: Path) -> LoaderSettings:
    return LoaderSettings(
        key_socket=str(directory / "agent"), sealed_dir="/sealed", signer="0" * 64, model="qwen3"
    )


def test_a_key_is_asked_for_by_the_served_name(
    serve: Callable[[bytes], tuple[LoaderSettings, list[bytes]]],
) -> None:
    config, heard = serve(encode(GRANT))
    grant = keyclient.fetch(config)
    assert grant.key.reveal() == GRANT.key.reveal()
    assert (grant.manifest, grant.minimum_version) == (GRANT.manifest, 3)
    assert decode_question(heard[0]) == Ask("qwen3")


def test_a_refusal_carries_the_agents_code(
    serve: Callable[[bytes], tuple[LoaderSettings, list[bytes]]],
) -> None:
    config, _ = serve(encode(Refused("weights-rollback")))
    with pytest.raises(NotAffirmed) as refusal:
        keyclient.fetch(config)
    assert refusal.value.code == "weights-rollback"


@pytest.mark.parametrize("answer", [encode(Noted()), b"", encode(GRANT)[:-1], b"x" * 9000])
def test_any_other_answer_is_malformed(
    serve: Callable[[bytes], tuple[LoaderSettings, list[bytes]]], answer: bytes
) -> None:
    config, _ = serve(answer)
    with pytest.raises(Malformed):
        keyclient.fetch(config)


def test_a_failed_load_is_reported(
    serve: Callable[[bytes], tuple[LoaderSettings, list[bytes]]],
) -> None:
    config, heard = serve(encode(Noted()))
    keyclient.report(config, "weights-chunk")
    assert decode_question(heard[0]) == Refused("weights-chunk")


def test_an_agent_that_is_gone_leaves_the_question_undecided(tmp_path: Path) -> None:
    with pytest.raises(Undecidable) as refusal:
        keyclient.fetch(settings(tmp_path))
    assert refusal.value.code == "key-agent-unreachable"
