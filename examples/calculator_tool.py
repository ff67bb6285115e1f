"""A task with tools: the policy calls a calculator, reads what it gives, and answers.

selfteach train sft  --task examples/calculator_tool.py:make --model arena:tutor --out runs/taught \\
    --lr 2e-3 --max-tokens 16
selfteach train grpo --task examples/calculator_tool.py:make --model runs/taught/model --max-tokens 16
selfteach train grpo --task examples/calculator_tool.py:told --model Qwen/Qwen2.5-0.5B-Instruct

The first teaches a tiny model, which never saw a call, to write ``mul(37,48)`` and then ``#1776``; the second goes on
by reward alone. A chat model knows how to call tools: ``told`` announces them, and asks in words.
"""

from __future__ import annotations

import json
import re
from random import Random

from selfteach.task.example import Example, Message
from selfteach.task.split import is_held_out
from selfteach.task.tool import Tool, with_tools
from selfteach.task.tool_environment import ToolEnvironment


def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


def mul(a: int, b: int) -> int:
    """Multiply two whole numbers."""
    return a * b


TOOLS = (Tool.of(add), Tool.of(mul))
SIGNS = {"add": "+", "mul": "*"}
WORDS = (
    "What is {problem}? Use the functions. When you know it, answer with # and the number alone, such as #12."
)


def check(example: Example, answer: str) -> float:
    """1.0 for an answer that ends in # and the right number."""
    found = re.search(r"#\s*(-?\d+)\s*$", answer)
    return float(found is not None and found[1] == example.private["answer"])


class Calculator:
    """Sums and products of two numbers below a hundred; ``solution`` holds the turns of one who calls the tool."""

    name = "calculator"
    max_turns = 4

    def __init__(self, announce: bool) -> None:
        self.announce = announce

    def environment(self) -> ToolEnvironment:
        return ToolEnvironment(TOOLS, check)

    def train(self, index: int) -> Example:
        return self.drawn(f"train {index}", held_out=False)

    def held_out(self, count: int) -> list[Example]:
        return [self.drawn(f"held out {index}", held_out=True) for index in range(count)]

    def drawn(self, key: str, held_out: bool) -> Example:
        random = Random(key)
        while True:
            name, a, b = random.choice(list(SIGNS)), random.randrange(100), random.randrange(100)
            problem = f"{a}{SIGNS[name]}{b}"
            if is_held_out(problem, 0.1) == held_out:
                break
        answer = str(a + b if name == "add" else a * b)
        private = {"answer": answer, "solution": json.dumps([f"{name}({a},{b})", f"#{answer}"])}
        if not self.announce:
            return Example(key, (Message(role="user", content=problem),), private)
        asked = Message(role="user", content=WORDS.replace("{problem}", problem))
        return Example(key, with_tools(TOOLS, (asked,)), private)


def make() -> Calculator:
    """For a tiny model: the sum alone is asked."""
    return Calculator(announce=False)


def told() -> Calculator:
    """For a chat model: its template announces the tools."""
    return Calculator(announce=True)
