"""A small environment for tests: guess a digit, told "higher" or "lower" after each guess."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from random import Random

from selfteach.task.environment import Reply
from selfteach.task.example import Example, Grade, Message


class Guessing:
    """``breaks``: a guess at which the environment itself fails."""

    def __init__(self, breaks: str | None = None) -> None:
        self.breaks = breaks
        self.secret, self.steps, self.closed = "", 0, False

    def reset(self, example: Example) -> Sequence[Message]:
        self.secret = example.private["answer"]
        return example.prompt

    def step(self, message: Message) -> Reply:
        self.steps += 1
        found = re.search(r"\d", message["content"])
        if found is None:
            return Reply((Message(role="user", content="a digit!"),), failed=True)
        guess = found[0]
        if guess == self.breaks:
            raise RuntimeError("out\nof order")
        if guess == self.secret:
            return Reply((Message(role="user", content="yes"),), reward=1.0, done=True)
        hint = "higher" if guess < self.secret else "lower"
        return Reply((Message(role="user", content=hint),), reward=0.01, numbers={"misses": 1.0})

    def close(self) -> None:
        self.closed = True


class GuessingTask:
    name = "guessing"
    max_turns = 4

    def __init__(self, breaks: str | None = None) -> None:
        self.breaks, self.made = breaks, list[Guessing]()
        self.wording: dict[str, str] = {}
        self.verdicts = Counter[str]()

    def environment(self) -> Guessing:
        self.made.append(Guessing(self.breaks))
        return self.made[-1]

    def train(self, index: int) -> Example:
        return self.example(index, "train")

    def held_out(self, count: int) -> list[Example]:
        return [self.example(i, "held out") for i in range(count)]

    def example(self, index: int, part: str) -> Example:
        secret = str(Random(f"{part} {index}").randrange(10))
        plan = ["5", *(["7"] if secret > "5" else ["2"] if secret < "5" else []), secret]
        turns = plan[: plan.index(secret) + 1]
        prompt = (Message(role="user", content=f"guess {part} {index}"),)
        return Example(f"{part} {index}", prompt, {"answer": secret, "solution": json.dumps(turns)})

    def grade(self, example: Example, answer: str) -> Grade:
        raise AssertionError("an environment grades its episodes itself")


def make() -> GuessingTask:
    return GuessingTask()
