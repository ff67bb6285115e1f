"""Environments that misbehave when they are told to, in a file that a worker process loads fast."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import toolbox
from guessing import Guessing, GuessingTask
from selfteach.errors import UserError
from selfteach.task.environment import Reply
from selfteach.task.example import Example, Message

MISBEHAVIOR = {
    "hang": toolbox.hang,
    "fail": toolbox.fail,
    "mute": toolbox.mute,
    "leave": toolbox.leave,
    "vanish": toolbox.vanish,
    "crash": toolbox.crash,
    "eat": toolbox.eat,
    "nibble": toolbox.nibble,
}


class Hostile(Guessing):
    """Guess a digit; a turn, or an example's field ``reset``, that names a misbehavior gets it. ``keep N`` holds N MB,
    ``meet FOLDER`` waits for a second episode that comes there, ``time`` says what no second process would."""

    def reset(self, example: Example) -> Sequence[Message]:
        self.kept: list[Any] = []
        word = example.private.get("reset")
        if word in MISBEHAVIOR:
            MISBEHAVIOR[word]()
        return super().reset(example)

    def step(self, message: Message) -> Reply:
        word, _, rest = message["content"].partition(" ")
        if word in MISBEHAVIOR:
            MISBEHAVIOR[word]()
        if word == "mistake":
            raise UserError("the world was built wrongly")
        if word == "keep":
            self.kept.append(bytearray(int(rest) << 20))
        if word == "meet":
            return Reply([Message(role="user", content=met(Path(rest)))])
        if word == "time":
            return Reply([Message(role="user", content=str(time.time_ns()))])
        if word == "megabyte":
            return Reply([Message(role="user", content="é" * 1_000_000)])
        if word == "endless":
            return Reply([Message(role="user", content="x" * 20_000_000)])
        return super().step(message)


def met(folder: Path) -> str:
    """Whether another process comes to the folder while this one waits there."""
    (folder / str(os.getpid())).touch()
    for _ in itertools.repeat(None, 200):
        if len(list(folder.iterdir())) > 1:
            return "met"
        time.sleep(0.05)
    return "alone"


class HostileTask(GuessingTask):
    name = "hostile"

    def environment(self) -> Hostile:
        return Hostile()


def make() -> HostileTask:
    return HostileTask()
