"""The prompts of a benchmarked step, the same on every side: what the student reads, and what the teacher reads.

A file of rows; every step takes all of them. ``bench_step.py`` writes the file, and
hands it to this library as a task by the reference ``workload.py:task``, with its path in ``SELFTEACH_BENCH_ROWS``.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from selfteach.task.example import Example, Grade

ROWS = "SELFTEACH_BENCH_ROWS"
Row = dict[str, Any]
"""``prompt``: messages; ``teacher``: the last user message as the teacher reads it, its privilege in it."""


def texts(count: int, seed: int) -> list[Row]:
    """Word problems with worked solutions, of unequal length: about 60 and 110 tokens in a chat template."""
    draw = random.Random(f"text {seed}")
    names, things = (
        ("Ada", "Ben", "Chloe", "Dmitri", "Esra"),
        ("pencils", "apples", "stamps", "marbles", "tickets"),
    )
    return [text(draw, draw.choice(names), draw.choice(things)) for _ in range(count)]


def text(draw: random.Random, who: str, what: str) -> Row:
    boxes, each, gone, more = (
        draw.randint(3, 12),
        draw.randint(4, 25),
        draw.randint(1, 11),
        draw.randint(2, 60),
    )
    asked = f"{who} has {boxes} boxes with {each} {what} in each and gives {gone} {what} away."
    worked = (
        f"{boxes} boxes of {each} are {boxes * each} {what}. Without {gone} there are {boxes * each - gone}."
    )
    if draw.random() < 0.5:
        asked += f" Then {who} finds {more} more {what} in a drawer."
        worked += f" With the {more} from the drawer there are {boxes * each - gone + more}."
    problem = f"{asked} How many {what} does {who} have now? Explain each step."
    teacher = f"{problem}\n\nA reference solution: {worked}\n\nSolve the problem yourself, in your own words."
    return {"prompt": [{"role": "user", "content": problem}], "teacher": teacher}


def tables(count: int, seed: int) -> list[Row]:
    """Problems of the arena's world "table", in the words that its model was taught."""
    from selfteach.roles.view import filled
    from selfteach.task.opening import open_task

    world = open_task("table", seed=seed)
    examples = [world.train(i) for i in range(count)]
    hinted = [filled(one, world.wording["solution"]) for one in examples]
    return [
        {"prompt": [dict(m) for m in one.prompt], "teacher": hint}
        for one, hint in zip(examples, hinted, strict=True)
    ]


def words(count: int, seed: int, prompt: int, hints: Sequence[int], most: int = 1000) -> list[Row]:
    """Random words ``w0`` … of the tokenizer in ``models.py``, one token each: ``prompt`` of them, and for every
    hint so many more. Where there are several hints, ``hints`` holds what each teacher reads."""
    draw = random.Random(f"words {seed}")

    def some(length: int) -> str:
        return " ".join(f"w{draw.randrange(most)}" for _ in range(length))

    rows = []
    for _ in range(count):
        problem = some(prompt)
        shown = [f"{problem} {some(length)}" for length in hints]
        rows.append({"prompt": [{"role": "user", "content": problem}], "teacher": shown[0], "hints": shown})
    return rows


class Workload:
    """The rows as a task: all of them in each epoch, in their order; every answer is wrong, and told the
    privilege."""

    name = "workload"
    wording = {"solution": "{solution}", "feedback": "{feedback}"}

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        hints = len(rows[0].get("hints", ()))
        self.wording = {**self.wording, **{f"hint{i}": f"{{hint{i}}}" for i in range(hints)}}

    def train(self, index: int) -> Example:
        row = self.rows[index % len(self.rows)]
        private = {"solution": row["teacher"], **{f"hint{i}": v for i, v in enumerate(row.get("hints", ()))}}
        return Example(str(index % len(self.rows)), tuple(row["prompt"]), private)

    def held_out(self, count: int) -> list[Example]:
        return []

    def grade(self, example: Example, answer: str) -> Grade:
        return Grade(0.0, feedback=example.private["solution"])


def task() -> Workload:
    """What ``--task …/workload.py:task`` opens."""
    return Workload(read(Path(os.environ[ROWS])))


def read(path: Path) -> list[Row]:
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def fingerprint(prompts: Iterable[tuple[Sequence[int], Sequence[int]]]) -> str:
    """Of all rows' (student's ids, teacher's ids), in whatever order they came."""
    rows = sorted((list(map(int, a)), list(map(int, b))) for a, b in prompts)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
