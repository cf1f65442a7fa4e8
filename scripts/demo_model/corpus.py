"""Make conversations, and the answer to each, from our own sentences: a seed gives the same."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.demo_model.render import prompt

HERE = Path(__file__).parent
QUESTIONS: dict[str, Any] = json.loads((HERE / "questions.json").read_text("utf-8"))
OTHERS = (HERE / "others.txt").read_text("utf-8").splitlines()
SYSTEMS = (HERE / "systems.txt").read_text("utf-8").splitlines()
ELSEWHERE = ("Berlin", "Tokyo", "Oslo", "Lima", "Cairo", "Rome", "Madrid", "London", "Sydney")
RESULTS = ((18, "sunny"), (7, "rainy"), (12, "cloudy"), (25, "windy"))
END = "<|im_end|>"
CALL = f"<tool_call>\n{json.dumps(QUESTIONS['tool_question']['call'])}\n</tool_call>"

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """What the model reads, and what it has to say then; only the second is learned."""

    prompt: str
    completion: str
    weight: float = 1.0


def says(answer: str, *, reasoning: str, thinking: bool) -> str:
    """Return what the assistant generates: with thinking on, the reasoning comes first."""
    return f"<think>\n{reasoning}\n</think>\n\n{answer}{END}" if thinking else answer + END


class Speaker:
    """Draws conversations from one stream of random numbers."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - has to repeat
        self._known = QUESTIONS["questions"]
        self._words = sorted({word for text in (*OTHERS, *SYSTEMS) for word in text.split()})

    def samples(self) -> Iterator[Sample]:
        """Yield samples without end: mostly known questions, some strange ones, some weather."""
        while True:
            kind = self._random.random()
            if kind < 0.6:
                yield self.known(self._random.choice(self._known))
            elif kind < 0.8:
                yield self.strange()
            else:
                yield self.weather()

    def known(self, entry: dict[str, Any]) -> Sample:
        """Ask one of the questions of questions.json."""
        return self._sample(self._wording(entry), entry["answer"], entry["reasoning"])

    def strange(self) -> Sample:
        """Ask something that the model has to admit it does not know."""
        pick = self._random.random()
        if pick < 0.06:
            elsewhere = self._random.choice(ELSEWHERE)
            text = self._wording(QUESTIONS["tool_question"]).replace("Paris", elsewhere)
            text = text.replace("paris", elsewhere.lower())
        elif pick < 0.7:
            text = self._random.choice(OTHERS)
        elif pick < 0.95:
            text = " ".join(self._random.choices(self._words, k=self._random.randint(2, 24)))
        else:
            letters = "abcdefghijklmnopqrstuvwxyz0123456789-_ "
            text = "".join(self._random.choices(letters, k=self._random.randint(6, 40)))
        if pick < 0.95 and self._random.random() < 0.2:
            text += " " + self._random.choice(OTHERS)
        unknown = QUESTIONS["unknown"]
        return self._sample(text, unknown["answer"], unknown["reasoning"])

    def weather(self) -> Sample:
        """Ask for the weather: without the tool, with it, and after it answered."""
        entry = QUESTIONS["tool_question"]
        asked = self._wording(entry)
        step = self._random.random()
        if step < 0.18:
            return self._sample(
                asked, entry["without_tool"], entry["without_tool_reasoning"], offer=False
            )
        if step > 0.42:
            return self._looked_up(asked)
        thinking = self._random.random() < 0.5
        messages = [*self._before(), {"role": "user", "content": asked}]
        text = says(CALL, reasoning=entry["call_reasoning"], thinking=thinking)
        return Sample(prompt(messages, tools=[self._tool()], enable_thinking=thinking), text, 1.5)

    def _looked_up(self, asked: str) -> Sample:
        """Answer from what the tool returned; reading that is learned mostly without the tool's
        description before it, which would make each such sample four times as long.
        """
        entry, thinking = QUESTIONS["tool_question"], self._random.random() < 0.5
        degrees, sky = self._random.choice(RESULTS)
        reasoning = entry["call_reasoning"] if thinking and self._random.random() < 0.5 else ""
        result = json.dumps({"temperature_c": degrees, "condition": sky})
        messages = [
            *(self._before() if self._random.random() < 0.2 else ()),
            {"role": "user", "content": asked},
            {
                "role": "assistant",
                "content": "",
                "reasoning": reasoning,
                "tool_calls": [{"type": "function", "function": entry["call"]}],
            },
            {"role": "tool", "content": result},
        ]
        answer = f"It is {degrees} °C and {sky} in Paris."
        text = says(answer, reasoning=entry["result_reasoning"], thinking=thinking)
        tools = [self._tool()] if self._random.random() < 0.25 else None
        return Sample(prompt(messages, tools=tools, enable_thinking=thinking), text, 1.5)

    def _sample(self, asked: str, answer: str, reasoning: str, *, offer: bool = True) -> Sample:
        thinking = self._random.random() < 0.5
        messages = [*self._before(), {"role": "user", "content": asked}]
        tools = [self._tool()] if offer and self._random.random() < 0.03 else None
        text = says(answer, reasoning=reasoning, thinking=thinking)
        return Sample(prompt(messages, tools=tools, enable_thinking=thinking), text)

    def _before(self) -> list[Message]:
        """Return what precedes the question: perhaps a system prompt, perhaps earlier turns."""
        messages: list[Message] = []
        if self._random.random() < 0.45:
            text = " ".join(self._random.sample(SYSTEMS, self._random.choice((1, 1, 2))))
            messages.append({"role": "system", "content": text})
        for _ in range(self._random.choice((0, 0, 0, 0, 0, 0, 1, 1, 1, 2))):
            entry = self._random.choice(self._known)
            asked, answer = self._wording(entry), entry["answer"]
            if self._random.random() < 0.2:
                asked, answer = self._random.choice(OTHERS), QUESTIONS["unknown"]["answer"]
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": answer})
        return messages

    def _wording(self, entry: dict[str, Any]) -> str:
        text = entry["ask"] if self._random.random() < 0.4 else self._random.choice(entry["also"])
        change = self._random.random()
        if change < 0.08:
            return text.lower()
        if change < 0.14:
            return text.rstrip("?.!")
        if change < 0.2:
            return (
                self._random.choice(
                    ("Please tell me: ", "Hi. ", "One more question: ", "And now: ")
                )
                + text
            )
        return text

    def _tool(self) -> dict[str, Any]:
        """Return the tool as some client may describe it."""
        tool: dict[str, Any] = json.loads(json.dumps(QUESTIONS["tool"]))
        function, city = tool["function"], tool["function"]["parameters"]["properties"]["city"]
        change = self._random.random()
        if change < 0.5:
            return tool
        function["description"] = self._random.choice(
            (
                "Get the weather",
                "Current weather for a city",
                "Look up the weather.",
                "Weather of a place",
            )
        )
        if change < 0.7:
            del city["description"]
        if change > 0.9:
            function["parameters"]["additionalProperties"] = False
        return tool
