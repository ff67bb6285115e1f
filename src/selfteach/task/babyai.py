"""BabyAI's levels in words: a grid world with instructions, and an exact expert.

Chevalier-Boisvert et al., *BabyAI: A Platform to Study the Sample Efficiency of Grounded Language Learning*, arXiv
1810.08272; levels and expert are those of minigrid. In words it was first played by language models in Carta et al.,
arXiv 2302.02662; the wording here is another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from typing import Any

from selfteach.checks import nearest, require
from selfteach.errors import UserError
from selfteach.settings import PositiveInt, PositiveRows, settings
from selfteach.task.gymnasium_task import GymnasiumTask

ACTIONS: Mapping[str, int] = {
    "turn left": 0, "turn right": 1, "go forward": 2, "pick up": 3, "drop": 4, "toggle": 5, "done": 6,
}  # fmt: skip
"""What a turn may say, and minigrid's action of it."""
RULES = (
    "You stand in a grid of rooms and have a mission. You see what is before you, and count in steps from where you "
    "stand. Each turn, answer with one action: turn left, turn right, go forward, pick up (what is right before you), "
    "drop (right before you), toggle (open the door or box right before you, with its key if it is locked) or done."
)
WORDING: Mapping[str, str] = {
    "solution": "{problem}\n\nFor your eyes only, these actions fulfill the mission from its beginning, in this order: "
    "{solution}\nReply with the next one of them alone.",
}
"""How a teacher is told of the expert's actions."""
_LEVEL = re.compile(r"BabyAI-(\w+)-v\d+")
OBJECTS = {4: "door", 5: "key", 6: "ball", 7: "box"}
COLORS = ("red", "green", "blue", "purple", "yellow", "grey")
_STATES = ("open", "closed", "locked")
_WALL = 2


@settings
class BabyAISettings:
    """Which level is played, and how long."""

    level: str = "GoToLocal"
    """The level's name, without BabyAI- and the version behind it."""
    episodes: PositiveRows | None = None
    """So many different episodes are trained on, again and again (none: always new ones)."""
    max_turns: PositiveInt = 32
    """Longest episode, in turns; the level's own limit of steps and a recipe's max_turns may be shorter."""


def babyai(settings: BabyAISettings, seed: int = 0) -> GymnasiumTask:
    """Episodes of a level, of a mission each, which is fulfilled (1) or not (0); ``seed`` chooses those that are
    trained on, held out are always the same. UserError where minigrid is missing, and for a level that it has not."""
    name = level_named(settings.level)
    task = GymnasiumTask(
        lambda: level(name),
        ACTIONS,
        name=f"babyai:{settings.level}",
        describe=described,
        instructions=RULES,
        expert=expert,
        max_turns=settings.max_turns,
        episodes=settings.episodes,
        seed=seed,
    )
    task.wording = WORDING
    return task


def level_named(wanted: str) -> str:
    """What gymnasium calls a level."""
    if find_spec("minigrid") is None:
        raise UserError(
            "the task babyai needs the package minigrid, which is not installed: pip install 'selfteach[babyai]'"
        )
    import_module("minigrid")  # which tells gymnasium of its levels
    known: dict[str, str] = {
        found[1]: name for name in import_module("gymnasium").registry if (found := _LEVEL.fullmatch(name))
    }
    require(wanted in known, f"babyai has no level {wanted!r}{nearest(wanted, known)}")
    return known[wanted]


def level(name: str) -> Any:
    """A level whose mission earns 1, however many steps it took, and that prints nothing while it is drawn."""
    gymnasium = import_module("gymnasium")

    class Level(gymnasium.Wrapper):  # type: ignore[misc, name-defined]
        def reset(self, **given: Any) -> Any:
            with redirect_stdout(StringIO()):
                return self.env.reset(**given)

        def step(self, action: Any) -> Any:
            observation, reward, terminated, truncated, info = self.env.step(action)
            return observation, float(reward > 0), terminated, truncated, info

    return Level(gymnasium.make(name, disable_env_checker=True))


def expert(environment: Any) -> list[str]:
    """The actions of minigrid's own planner, from here to the end of the mission; [] where it does not get there. The
    environment is spent then."""
    words = {number: word for word, number in ACTIONS.items()}
    planner = import_module("minigrid.utils.baby_ai_bot").BabyAIBot(environment.unwrapped)
    said: list[str] = []
    action, over = None, False
    while not over:
        try:
            action = planner.replan(action)
        except (
            AssertionError,
            ValueError,
            AttributeError,
            TypeError,
        ):  # its plans have an end, not in every maze
            return []
        _, reward, terminated, truncated, _ = environment.step(action)
        said.append(words[int(action)])
        over = terminated or truncated
    return said if reward > 0 else []


def described(observation: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    """Mission, things in sight from near to far, walls, and what is carried.

    ``observation["image"]`` [7, 7, 3]: object, color and state of each field in sight, as minigrid numbers them; the
    agent stands in the middle of the last row and looks along the second axis, towards 0.
    """
    view = observation["image"]
    middle, last = view.shape[0] // 2, view.shape[1] - 1
    carried = thing_at(view[middle, last])
    things = sorted(in_sight(view, middle, last))
    seen = [f"- {thing}: {place(forward, aside)}" for _, forward, aside, thing in things]
    return "\n".join(
        [
            f"Mission: {observation['mission']}.",
            *(["You see:", *seen] if seen else ["You see no object."]),
            *walls(view, middle, last),
            f"You carry {f'a {carried}' if carried else 'nothing'}.",
        ]
    )


def in_sight(view: Any, middle: int, last: int) -> Iterator[tuple[int, int, int, str]]:
    """(steps to it, steps forward, steps to the right, what it is) of each object but the one that is carried."""
    for i in range(view.shape[0]):
        for j in range(view.shape[1]):
            thing = thing_at(view[i, j])
            if thing and (i, j) != (middle, last):
                yield last - j + abs(i - middle), last - j, i - middle, thing


def thing_at(field: Any) -> str:
    """What stands on a field, in words: "" for a wall, the floor and what is out of sight."""
    kind, color, state = (int(number) for number in field)
    if kind not in OBJECTS:
        return ""
    return f"{f'{_STATES[state]} ' if OBJECTS[kind] == 'door' else ''}{COLORS[color]} {OBJECTS[kind]}"


def place(forward: int, right: int) -> str:
    """Where something is, as "2 steps forward, 1 step to the left"."""
    parts = [(forward, "forward"), (right, "to the right"), (-right, "to the left")]
    return ", ".join(f"{steps} step{'s' * (steps > 1)} {way}" for steps, way in parts if steps > 0)


def walls(view: Any, middle: int, last: int) -> Iterator[str]:
    """The nearest wall straight ahead and on either side."""
    ways = {
        "forward": [view[middle, j] for j in range(last - 1, -1, -1)],
        "to the left": [view[i, last] for i in range(middle - 1, -1, -1)],
        "to the right": [view[i, last] for i in range(middle + 1, view.shape[0])],
    }
    found = [
        f"{steps} step{'s' * (steps > 1)} {way}"
        for way, fields in ways.items()
        if (steps := next((k for k, field in enumerate(fields, start=1) if int(field[0]) == _WALL), 0))
    ]
    if found:
        yield f"A wall is {', '.join(found)}."
