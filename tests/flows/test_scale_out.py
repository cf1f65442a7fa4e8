"""Two real replicas behind HAProxy: what affinity saves, and that clients outlive a replica."""

import contextlib
import secrets
import signal
import statistics
import time

import pytest
from openai import OpenAI

from attestation.client import attested_client
from attestation.policy import Policy
from scripts.chain.installation import MODEL, configure
from scripts.chain.services import Chain
from tests.balancer import balancing
from tests.chain_kit import EXAMPLE, World, free_port

pytestmark = [pytest.mark.engine, pytest.mark.slow]

LENGTH = 4096
WORDS = 2200
"""Of the conversation before the question: most of the context."""


class Replicas:
    """Two guests of one image and one broker, and clients that reach them by a label."""

    def __init__(self, stack, first, second):
        self.chains = [Chain(world.installation, stack) for world in (first, second)]
        head, other = self.chains
        head.tdx()
        head.broker()
        other.tdx()
        self.gateways = [chain.gateway() for chain in self.chains]
        for gateway in self.gateways:
            gateway.wait_ready(seconds=900)
        self.url = stack.enter_context(balancing([first.port, second.port], port=free_port()))
        installation = first.installation
        self.policy = Policy.load(installation.policy.read_bytes(), name="policy.yaml")
        self.api_key = installation.api_key.read_text()
        self.stack = stack

    def chats(self):
        """Return how many chats each replica has answered."""
        return [
            sum("/v1/chat/completions" in line for line in list(gateway.output))
            for gateway in self.gateways
        ]

    def client(self, label):
        verified = self.stack.enter_context(attested_client(self.url, self.policy, affinity=label))
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.api_key, http_client=verified)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory, demo_checkpoint):
    place = tmp_path_factory.mktemp("scale-out")
    first = World(place / "one", checkpoint=demo_checkpoint)
    second = first.fork(place / "two")
    digests = []
    for world in (first, second):
        changes = world._settings() | {
            "broker.url": f"https://127.0.0.1:{first.broker_port}",
            f"models.{MODEL}.engine.max_model_len": LENGTH,
        }
        configure(EXAMPLE, world.installation.config, state=world.directory, changes=changes)
        world.installation.write_policy()
        text = world.installation.policy.read_text()
        digests.append(text.partition('config: ["')[2].partition('"')[0])
    first.edit_policy(r'config: \["', f'config: ["{digests[1]}", "')
    with contextlib.ExitStack() as stack:
        stack.callback(first.remove)
        stack.callback(second.remove)
        yield Replicas(stack, first, second)


def first_word(client, history):
    """Return the seconds until the first token of an answer."""
    began = time.perf_counter()
    stream = client.chat.completions.create(
        model=MODEL, messages=history, max_tokens=4, temperature=0, stream=True
    )
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.model_extra is not None:
            seconds = time.perf_counter() - began
            break
    stream.close()
    return seconds


def conversation():
    """Return a long conversation that nobody has had before."""
    words = " ".join(secrets.choice(["prompt", "answer", "memory", "key"]) for _ in range(WORDS))
    return [{"role": "user", "content": f"{secrets.token_hex(8)} {words}"}]


def question(number):
    return [{"role": "assistant", "content": "Nothing."}, {"role": "user", "content": f"{number}?"}]


def test_affinity_saves_the_prefix_and_a_lost_replica_costs_it_once(replicas):
    clients = {}
    while len(clients) < 2:  # one client whose home is each replica
        before, client = replicas.chats(), replicas.client(secrets.token_hex(8))
        first_word(client, question(0)[1:])
        time.sleep(0.5)
        home = [now > then for now, then in zip(replicas.chats(), before, strict=True)].index(True)
        clients.setdefault(home, client)
    staying, moving = clients[1], clients[0]

    histories = [conversation() for _ in range(7)]
    cold = [first_word(staying, history + question(0)) for history in histories]
    warm = [first_word(staying, history + question(1)) for history in histories]
    told = f"first token: {statistics.median(cold):.3f} s without the prefix,"
    print(f"{told} {statistics.median(warm):.3f} s with it")
    assert statistics.median(warm) < statistics.median(cold)

    history = conversation()
    first_word(moving, history + question(0))
    kept = first_word(moving, history + question(1))
    replicas.gateways[0].process.send_signal(signal.SIGKILL)
    replicas.gateways[0].process.wait()
    lost = first_word(moving, history + question(2))  # verifies the other replica first
    again = first_word(moving, history + question(3))
    print(f"moved: {kept:.3f} s before, {lost:.3f} s once, {again:.3f} s after")
    assert first_word(staying, histories[0] + question(2)) < statistics.median(cold)
    assert again < lost
    answers = [
        staying.chat.completions.create(model=MODEL, messages=question(9)[1:], max_tokens=4),
        moving.chat.completions.create(model=MODEL, messages=question(9)[1:], max_tokens=4),
    ]
    assert all(answer.usage.completion_tokens > 0 for answer in answers)
