"""Text games of TextWorld as a task: rooms, objects and a quest, won by commands of several turns.

Côté et al., *TextWorld: A Learning Environment for Text-based Games*, arXiv 1806.11532. The library makes a game from a
seed, compiles it, and knows an exact expert.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.settings import PositiveInt, PositiveRows, settings
from selfteach.task.environment import Reply, refuse_grading
from selfteach.task.epochs import in_epochs
from selfteach.task.example import Example, Grade, Message
from selfteach.task.textworld_games import HELD_OUT, Games, Opening
from selfteach.task.textworld_worker import started
from selfteach.task.verdict import Verdict

RULES = (
    "You play a text game, which is won when its objective is reached. Each turn, reply with exactly one of the "
    "commands that are listed, and nothing else."
)
ILLEGAL = "This is not one of the commands: nothing happened. Reply with exactly one of those listed."
WORDING: Mapping[str, str] = {
    "plan": "{problem}\n\nFor your eyes only, these commands win the game from its beginning, in this order: {plan}.\n"
    "Reply with the next one of them alone.",
    "solution": "{problem}\n\nFor your eyes only, these commands win the game from its beginning, in this order: "
    "{solution}\nReply with the next one of them alone.",
}
"""How a teacher is told of the expert's commands."""


@settings
class TextWorldSettings:
    """What games there are, and how an episode is rewarded."""

    rooms: PositiveInt = 1
    """Rooms of a game."""
    objects: PositiveInt = 4
    """Objects of a game, those of its quest included."""
    quest: PositiveInt = 2
    """Commands that it takes to fulfill a quest."""
    quests: PositiveInt = 1
    """Quests of a game, all of which must be fulfilled."""
    games: PositiveRows | None = None
    """So many different games are trained on, in a new order each time they are through (none: always new ones)."""
    max_turns: PositiveInt = 16
    """Longest episode, in turns; a recipe's own max_turns may be shorter."""
    dense: bool = False
    """Whether a turn earns the share of the quests that it fulfills; else the winning turn earns 1 and all others 0."""

    def __post_init__(self) -> None:
        require(
            self.quests > 1 or not self.dense,
            "textworld: dense pays for each quest that is fulfilled, and there is one alone: set quests=2 or more",
        )

    @property
    def shape(self) -> dict[str, int]:
        """What the games themselves depend on."""
        return {"rooms": self.rooms, "objects": self.objects, "quest": self.quest, "quests": self.quests}


@dataclass(frozen=True)
class TextWorldTask:
    """Games of TextWorld, each an episode; ``seed`` chooses those that are trained on, held out are always the same.

    A quarter of all objectives are held out, by a hash of their words, so ``train`` and ``held_out`` share neither a
    game nor an objective. Private fields: ``solution``, the JSON list of the expert's commands, which were seen to win
    when the game was made; ``plan``, the same to be read. Raises UserError where the library is missing or makes no
    game of these settings.
    """

    settings: TextWorldSettings = field(default_factory=TextWorldSettings)
    seed: int = 0
    wording: Mapping[str, str] = field(default_factory=lambda: WORDING)
    verdicts: Counter[Verdict] = field(default_factory=Counter, compare=False)
    games: Games = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "games", Games(self.settings.shape))

    @property
    def name(self) -> str:
        return "textworld"

    @property
    def max_turns(self) -> int:
        return self.settings.max_turns

    def describe(self) -> dict[str, Any]:
        """What a run should write down about its data."""
        return {
            "source": f"TextWorld {self.games.folder.parent.name}",
            "config": self.settings.shape,
            "held_out": f"about {HELD_OUT:g} of the objectives",
            "solution": "the library's own policy",
            "reward": "share of quests fulfilled" if self.settings.dense else "1 for a game that is won",
        }

    def train(self, index: int) -> Example:
        return self._example(self.games.drawn(f"{self.seed}/train/{self._number(index)}", held_out=False))

    def held_out(self, count: int) -> list[Example]:
        """``count`` games that open differently. UserError if there are not so many."""
        found: dict[str, Example] = {}
        for index in range(4 * count + 20):
            if len(found) == count:
                break
            example = self._example(self.games.drawn(f"held_out/{index}", held_out=True))
            found.setdefault(example.problem, example)
        if len(found) < count:
            raise UserError(
                f"textworld has only {len(found)} different held-out games of {self.games.spec}, {count} were asked "
                "for: ask for fewer, or set more rooms, objects or quest"
            )
        return list(found.values())

    def environment(self) -> TextWorldEnvironment:
        return TextWorldEnvironment(self.games, self.settings.dense)

    def grade(self, example: Example, answer: str) -> Grade:
        refuse_grading(self.name)

    def _number(self, index: int) -> int:
        """Which of the training's games comes at this place."""
        games = self.settings.games
        return index if games is None else in_epochs(index, games, self.seed)

    def _example(self, opening: Opening) -> Example:
        text = f"{RULES}\n\nObjective: {opening.objective}\n\n{observed(opening.feedback, opening=True)}"
        private = {"solution": json.dumps(opening.expert), "plan": ", then ".join(opening.expert)}
        prompt = (said(text, opening.commands),)
        return Example(f"textworld/{self.games.spec}/{opening.seed}", prompt, private)


class TextWorldEnvironment:
    """One game at a time.

    A turn is a command: the assistant's whole message, without white space around it, must be exactly one of those that
    are listed. Anything else is no legal action: the game stands as it did, and the turn counts as ``failed``. So no
    text of a model reaches the interpreter. The number ``won`` is 1 for the turn that wins. After a reset an episode
    follows from its messages alone: the same commands give the same words.
    """

    def __init__(self, games: Games, dense: bool = False) -> None:
        self.games, self.dense = games, dense
        self.env: Any = None
        self.commands: Sequence[str] = ()
        self.score = 0.0

    def reset(self, example: Example) -> Sequence[Message]:
        """Begin the example's game. UserError for an example of another task or of other settings."""
        before, _, seed = example.key.rpartition("/")
        require(
            before == f"textworld/{self.games.spec}" and seed.isdecimal(),
            f"example {example.key} is no game of {self.games.spec}: take the examples of this very task",
        )
        self.close()
        self.env = started(self.games.path(int(seed)))
        self.commands, self.score = self.env.reset().admissible_commands, 0.0
        return example.prompt

    def step(self, message: Message) -> Reply:
        command = message["content"].strip()
        if command not in self.commands:
            return Reply((said(ILLEGAL, self.commands),), failed=True, numbers={"won": 0.0})
        state, score, done = self.env.step(command)
        won, share = bool(state.won), score / state.max_score
        reward = share - self.score if self.dense else float(won)
        self.commands, self.score = state.admissible_commands, share
        text = observed(state.feedback)
        answer = Message(role="user", content=text) if done else said(text, self.commands)
        return Reply((answer,), reward=reward, done=bool(done), numbers={"won": float(won)})

    def close(self) -> None:
        if self.env is not None:
            self.env.close()
            self.env = None


def said(text: str, commands: Sequence[str]) -> Message:
    """What the game says, with the commands that are admissible now, one a line."""
    return Message(role="user", content="\n".join([text, "", "Commands:", *commands]))


def observed(feedback: str, opening: bool = False) -> str:
    """What a player should read of the library's words: without the status line behind the prompt sign, the questions
    behind the end and, where the game opens, the title and the objective before the first room. Blank lines are left
    out."""
    text = feedback.partition("\n>")[0].partition("Would you like to RESTART")[0]
    if opening and "-= " in text:
        text = text[text.index("-= ") :]
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())
