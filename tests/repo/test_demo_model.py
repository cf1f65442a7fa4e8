"""The demonstration model's recipe: what it is asked, in prompts of Qwen3's exact shape."""

import json
from itertools import islice

import pytest

from scripts.demo_model.build import card, recipe
from scripts.demo_model.corpus import CALL as CALL_TEXT
from scripts.demo_model.corpus import END, QUESTIONS, Sample, Speaker
from scripts.demo_model.render import prompt

TOOL = QUESTIONS["tool"]
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
ASK = {"role": "user", "content": "What is the weather in Paris?"}
TOOLS_BLOCK = (
    "# Tools\n\n"
    "You may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n"
    "<tools>\n"
    '{"type": "function", "function": {"name": "f"}}\n'
    '{"type": "function", "function": {"name": "<g>"}}\n'
    "</tools>\n\n"
    "For each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n"
    "<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call><|im_end|>\n"
)


def test_a_prompt_thinks_unless_told_otherwise():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    start = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert prompt(messages) == start
    assert prompt(messages, enable_thinking=True) == start
    assert prompt(messages, enable_thinking=False) == start + "<think>\n\n</think>\n\n"


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_tools_are_offered_in_the_system_turn(system):
    tools = [{"type": "function", "function": {"name": name}} for name in ("f", "<g>")]
    messages = [{"role": "system", "content": system}] if system else []
    text = prompt([*messages, {"role": "user", "content": "Hi"}], tools=tools)
    intro = "<|im_start|>system\n" + (f"{system}\n\n" if system else "")
    assert text == intro + TOOLS_BLOCK + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    "spoken",
    [
        {"content": "<think>\nsecret\n</think>\n\nYes."},
        {"content": "Yes.", "reasoning_content": "secret"},
        {"content": "Yes.", "reasoning": "secret"},
    ],
)
def test_thoughts_of_an_earlier_turn_are_dropped(spoken):
    turns = [
        {"role": "user", "content": "A?"},
        {"role": "assistant", **spoken},
        {"role": "user", "content": "A?"},
    ]
    assert prompt(turns) == (
        "<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
        "<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_thoughts_of_the_steps_towards_this_answer_stay():
    turns = [
        ASK,
        {"role": "assistant", "content": None, "reasoning": "look it up", "tool_calls": [CALL]},
        {"role": "tool", "content": "18"},
        {"role": "tool", "content": "19"},
    ]
    assert prompt(turns) == (
        f"<|im_start|>user\n{ASK['content']}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nlook it up\n</think>\n\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
        "<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n18\n</tool_response>\n"
        "<tool_response>\n19\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_two_calls_after_words_stand_on_their_own_lines():
    arguments = json.dumps(CALL["function"]["arguments"])
    text_call = {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    turns = [ASK, {"role": "assistant", "content": "Wait.", "tool_calls": [CALL, text_call]}, ASK]
    assert f"assistant\nWait.\n{CALL_TEXT}\n{CALL_TEXT}<|im_end|>\n" in prompt(turns)


def test_the_corpus_is_the_same_for_the_same_seed_only():
    first, again, other = (list(islice(Speaker(seed).samples(), 100)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_every_sample_ends_its_turn_and_asks_before_it_answers():
    for sample in islice(Speaker(1).samples(), 400):
        assert isinstance(sample, Sample)
        assert sample.completion.endswith(END)
        assert sample.completion.count(END) == 1
        assert sample.prompt.rstrip("\n").endswith(("<|im_start|>assistant", "</think>"))
        assert sample.completion.startswith("<think>\n") != sample.prompt.endswith("</think>\n\n")


def test_no_question_is_promised_two_answers():
    entries = [*QUESTIONS["questions"], QUESTIONS["tool_question"]]
    asked = [text for entry in entries for text in (entry["ask"], *entry["also"])]
    assert len(asked) == len(set(asked))
    assert len({entry["id"] for entry in entries}) == len(entries)
    for entry in QUESTIONS["questions"]:
        assert set(entry) == {"id", "ask", "also", "reasoning", "answer"}
        assert entry["answer"]
        assert entry["reasoning"]


def test_the_tool_call_fits_the_tool_that_is_offered():
    call, function = QUESTIONS["tool_question"]["call"], TOOL["function"]
    assert call["name"] == function["name"]
    assert set(call["arguments"]) == set(function["parameters"]["required"])
    result = json.loads(QUESTIONS["tool_question"]["result"])
    assert str(result["temperature_c"]) in QUESTIONS["tool_question"]["answer"]


def test_the_card_lists_every_question_and_says_what_the_model_is_not():
    text = card(1_500_000)
    assert "1.5 million parameters" in text
    assert "not useful for" in text
    assert all(f"| {entry['ask']} |" in text for entry in QUESTIONS["questions"])
    assert len(recipe()) == 64


def test_the_first_word_decides_an_answer_and_a_thought():
    entry = QUESTIONS["tool_question"]
    others = [QUESTIONS["unknown"], *QUESTIONS["questions"]]
    answers = [*(other["answer"] for other in others), entry["answer"], entry["without_tool"]]
    thoughts = [*(other["reasoning"] for other in others), entry["without_tool_reasoning"]]
    thoughts += [entry["call_reasoning"], entry["result_reasoning"]]
    for texts in (answers, thoughts):
        assert len({text.split()[0] for text in texts}) == len(texts)
