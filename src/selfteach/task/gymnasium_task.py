"""A gymnasium environment as a task: observations in words, actions read out of what the assistant says."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from selfteach.checks import require
from selfteach.task.environment import Reply, refuse_grading
from selfteach.task.example import Example, Grade, Message

TRAINING = 1 << 20
"""Seeds below this one are held out, those from it on are trained on."""
Actions = Mapping[str, Any] | Callable[[str], Any]
"""Words → actions; or a function that reads an action out of a text, and raises ValueError where there is none."""


class GymnasiumTask:
    """Episodes of a gymnasium environment: ``make()`` gives one, whose ``reset(seed=…)`` and ``step(action)`` are
    called as they are.

    ``describe(observation, info)`` says in words what the policy sees. ``actions``: what a turn may say; of words the
    last one named in a turn counts, whatever its case. A turn without one is answered with the words there are, and the
    environment does not move. Rewards are the environment's; ``terminated`` and ``truncated`` end the episode. Each
    example is a seed: the environment must draw nothing that does not follow from it. ``expert(environment)``, asked
    behind ``reset``, gives the turns that would solve it: they are the private field ``solution``, which is imitated
    (``sft``) or shown to a teacher; where it gives none there is no such field. ``instructions`` stand before the first
    observation; ``seed`` chooses the training episodes, of which ``episodes`` are drawn again and again (None: ever new
    ones).

    Raises UserError without an action.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        actions: Actions,
        *,
        name: str = "gymnasium",
        describe: Callable[[Any, Mapping[str, Any]], str] = lambda observation, info: str(observation),
        instructions: str = "",
        expert: Callable[[Any], Sequence[str]] | None = None,
        max_turns: int = 32,
        episodes: int | None = None,
        seed: int = 0,
    ) -> None:
        require(callable(actions) or len(actions) > 0, f"task {name}: actions is empty: name some words")
        if not callable(actions):
            require(
                all(isinstance(word, str) and word for word in actions),
                f"task {name}: actions are called by words, as in {{'left': 0}}; got {list(actions)!r}",
            )
        require(max_turns >= 1, f"task {name}: max_turns is {max_turns}: it must be at least 1")
        self.make, self.actions, self.name, self.describe = make, actions, name, describe
        self.instructions, self.expert, self.max_turns = instructions, expert, max_turns
        self.episodes, self.seed = episodes, seed
        self.wording: Mapping[str, str] = {}
        self.verdicts: Counter[str] = Counter()

    def environment(self) -> GymnasiumEpisode:
        return GymnasiumEpisode(self)

    def train(self, index: int) -> Example:
        number = index if self.episodes is None else index % self.episodes
        return self.example(TRAINING + (self.seed << 20) + number)

    def held_out(self, count: int) -> list[Example]:
        return [self.example(seed) for seed in range(count)]

    def example(self, seed: int) -> Example:
        """The episode of this seed: its prompt is the first observation."""
        environment = self.make()
        observation, info = environment.reset(seed=seed)
        private = {"seed": str(seed)}
        if self.expert is not None:
            turns = list(self.expert(environment))
            require(
                all(isinstance(one, str) for one in turns),
                f"task {self.name}: expert gave {turns!r:.60}: give the words of its turns",
            )
            if turns:
                private["solution"] = json.dumps(turns)
        environment.close()
        return Example(f"{self.name} {seed}", self.opening(observation, info), private)

    def grade(self, example: Example, answer: str) -> Grade:
        refuse_grading(self.name)

    def opening(self, observation: Any, info: Mapping[str, Any]) -> tuple[Message, ...]:
        parts = [self.instructions, self.told(observation, info)]
        return (Message(role="user", content="\n\n".join(part for part in parts if part)),)

    def told(self, observation: Any, info: Mapping[str, Any]) -> str:
        """What ``describe`` says. UserError where that is no text."""
        said = self.describe(observation, info)
        require(
            isinstance(said, str),
            f"task {self.name}: describe gave {type(said).__name__} {said!r:.60}: give a text",
        )
        return said

    def action_in(self, text: str) -> Any:
        """The action that a turn names. ValueError, with what there is to say, where it names none."""
        if callable(self.actions):
            return self.actions(text)
        named = list(self._named(text, self.actions))
        if not named:
            raise ValueError(f"Say one of: {', '.join(self.actions)}.")
        return self.actions[named[-1]]

    @staticmethod
    def _named(text: str, words: Mapping[str, Any]) -> Iterator[str]:
        """The actions that a text names, in its order; of two that begin alike the longer."""
        spelled = {word.casefold(): word for word in words}
        longest_first = "|".join(re.escape(word) for word in sorted(spelled, key=len, reverse=True))
        for found in re.finditer(rf"(?<!\w)(?:{longest_first})(?!\w)", text.casefold()):
            yield spelled[found[0]]


class GymnasiumEpisode:
    """See ``selfteach.task.environment.Environment``."""

    def __init__(self, task: GymnasiumTask) -> None:
        self.task, self.inner = task, task.make()

    def reset(self, example: Example) -> Sequence[Message]:
        observation, info = self.inner.reset(seed=int(example.private["seed"]))
        return self.task.opening(observation, info)

    def step(self, message: Message) -> Reply:
        try:
            action = self.task.action_in(message["content"])
        except ValueError as error:
            return Reply((Message(role="user", content=str(error)),), failed=True)
        observation, reward, terminated, truncated, info = self.inner.step(action)
        said = Message(role="user", content=self.task.told(observation, info))
        return Reply((said,), float(reward), bool(terminated or truncated))

    def close(self) -> None:
        self.inner.close()
