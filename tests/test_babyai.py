"""BabyAI in words: what is said is where things are, the expert gets there, and a seed is an episode."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from doors import run_of_recipe
from selfteach.errors import UserError
from selfteach.recipes.kit import Optimization, Rollouts
from selfteach.recipes.sft import SFT
from selfteach.task import babyai as module
from selfteach.task.babyai import ACTIONS, BabyAISettings, babyai, described, expert, level, place
from selfteach.task.environment import Reply, turns_of
from selfteach.task.example import Message
from selfteach.task.opening import TaskOptions, open_task
from selfteach.task.rows import make_task
from tiny import CHATML, tiny_model_folder

needs_library = pytest.mark.skipif(find_spec("minigrid") is None, reason="needs the extra babyai")
EMPTY = [[1, 0, 0]] * 7


def said(environment: Any, words: str) -> Reply:
    reply: Reply = environment.step(Message(role="assistant", content=words))
    return reply


def view(**fields: tuple[int, int, int]) -> dict[str, Any]:
    """An observation of a floor with these fields, named f<steps forward>r<steps to the right> (l: to the left)."""
    image = torch.tensor([EMPTY] * 7)
    for where, field in fields.items():
        forward, way, aside = re.fullmatch(r"f(\d)([lr])(\d)", where).groups()  # type: ignore[union-attr]
        image[3 + int(aside) * (1 if way == "r" else -1), 6 - int(forward)] = torch.tensor(field)
    return {"image": image.numpy(), "mission": "go to the green ball"}


# --- without the library ----------------------------------------------------------------------------------------------


def test_what_is_in_sight_is_said_from_near_to_far() -> None:
    told = described(
        view(f2r1=(6, 1, 0), f1l0=(5, 0, 0), f0l3=(2, 5, 0), f6r0=(4, 4, 2), f3l2=(4, 2, 0), f4r0=(2, 5, 0)),
        {},
    )
    assert told.splitlines() == [
        "Mission: go to the green ball.",
        "You see:",
        "- red key: 1 step forward",
        "- green ball: 2 steps forward, 1 step to the right",
        "- open blue door: 3 steps forward, 2 steps to the left",
        "- locked yellow door: 6 steps forward",
        "A wall is 4 steps forward, 3 steps to the left.",
        "You carry nothing.",
    ]


def test_what_is_carried_is_not_seen_as_a_thing() -> None:
    told = described(view(f0r0=(7, 3, 0)), {})
    assert told.splitlines()[1:] == ["You see no object.", "You carry a purple box."]


@pytest.mark.parametrize(
    ("forward", "right", "words"),
    [
        (1, 0, "1 step forward"),
        (0, -2, "2 steps to the left"),
        (3, 1, "3 steps forward, 1 step to the right"),
    ],
)
def test_places_are_counted_in_steps(forward: int, right: int, words: str) -> None:
    assert place(forward, right) == words


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'selfteach\[babyai\]'"):
        open_task("babyai")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("babyai?levels=GoTo", r"there is no setting 'levels'; did you mean level\?"),
        ("babyai?max_turns=0", "max_turns"),
        ("babyay", "did you mean babyai"),
    ],
)
def test_what_is_wrong_with_a_name_is_said(name: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        open_task(name)


def test_options_of_data_are_refused() -> None:
    with pytest.raises(UserError, match="does not heed answer_format"):
        open_task("babyai", options=TaskOptions(answer_format="boxed"))


# --- with it ----------------------------------------------------------------------------------------------------------


@needs_library
def test_the_words_for_actions_are_minigrids() -> None:
    from minigrid.core.actions import Actions
    from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX

    names = ["left", "right", "forward", "pickup", "drop", "toggle", "done"]
    assert [one.name for one in Actions] == names
    assert [Actions(number).name in word.replace(" ", "") for word, number in ACTIONS.items()] == [True] * 7
    assert {OBJECT_TO_IDX[name]: name for name in module.OBJECTS.values()} == module.OBJECTS
    assert [COLOR_TO_IDX[one] for one in module.COLORS] == list(range(6))
    assert [STATE_TO_IDX[one] for one in module._STATES] == [0, 1, 2]
    assert OBJECT_TO_IDX["wall"] == module._WALL


@needs_library
def test_things_are_where_they_are_said_to_be() -> None:
    """Against the world's own map: steps forward and to the right are projections on the agent's directions."""
    checked = 0
    for seed in range(10):
        world = level("BabyAI-GoToLocal-v0")
        observation, _ = world.reset(seed=seed)
        for action in (0, 2, 1, 1, 2):
            observation, *_ = world.step(action)
        own = world.unwrapped
        for _, forward, right, thing in module.in_sight(observation["image"], 3, 6):
            x, y = own.agent_pos + forward * own.dir_vec + right * own.right_vec
            there = own.grid.get(x, y)
            assert f"{there.color} {there.type}" == thing
            checked += 1
    assert checked > 30


@needs_library
@pytest.mark.parametrize("name", ["GoToLocal", "OpenDoor", "PutNextLocal", "UnlockLocal"])
def test_the_expert_fulfills_every_mission(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    task: Any = open_task(f"babyai?level={name}")
    examples = [*task.held_out(20), *(task.train(i) for i in range(5))]
    assert len({one.key for one in examples}) == 25
    for one in examples:
        environment = task.environment()
        assert tuple(environment.reset(one)) == one.prompt
        replies = [said(environment, turn) for turn in turns_of(one, "solution")]
        assert [reply.done for reply in replies] == [False] * (len(replies) - 1) + [True]
        assert [reply.reward for reply in replies] == [0.0] * (len(replies) - 1) + [1.0]
        environment.close()
    assert capsys.readouterr().out == ""


@needs_library
def test_an_expert_that_does_not_get_there_says_nothing() -> None:
    class Lost:
        def __init__(self) -> None:
            self.unwrapped = level("BabyAI-GoToLocal-v0").unwrapped
            self.unwrapped.reset(seed=0)

        def step(self, action: Any) -> Any:
            return None, 0.0, False, True, {}

    assert expert(Lost()) == []
    task = babyai(BabyAISettings())
    task.expert = lambda environment: []
    assert "solution" not in task.train(0).private


@needs_library
def test_what_names_no_action_moves_nothing_and_the_last_named_counts() -> None:
    task = babyai(BabyAISettings(episodes=3, max_turns=7), seed=2)
    assert (task.max_turns, task.train(0)) == (7, task.train(3))
    assert task.train(0) != babyai(BabyAISettings(), seed=3).train(0)
    assert babyai(BabyAISettings(), seed=3).held_out(2) == task.held_out(2)
    environment, other = task.environment(), task.environment()
    for one in (environment, other):
        one.reset(task.train(0))
    reply = said(environment, "north")
    assert reply.failed
    assert reply.messages[0]["content"].startswith("Say one of: turn left, turn right,")
    assert said(environment, "I could go forward. No: Turn Left!") == said(other, "turn left")


@needs_library
def test_a_level_that_is_none_is_named() -> None:
    with pytest.raises(UserError, match=r"babyai has no level 'GoToLocl'; did you mean GoToLocal"):
        open_task("babyai?level=GoToLocl")


@needs_library
def test_it_is_imitated_and_played_elsewhere(tmp_path: Path) -> None:
    options = TaskOptions(environment_timeout=60.0, environment_workers=1)
    elsewhere: Any = make_task("babyai", options=options)
    folder = tiny_model_folder(tmp_path / "model", template=CHATML)
    config = json.loads((folder / "config.json").read_text())  # every character is a token
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 16384}))
    recipe = SFT(rollouts=Rollouts(max_tokens=16), optimization=Optimization(prompts=2))
    found = []
    for name, task in (("here", make_task("babyai")), ("elsewhere", elsewhere)):
        learner = run_of_recipe(recipe, str(folder), tmp_path / name, task=task)[1]
        found.append(learner.collect(0).rows)
    assert found[0] == found[1]
    assert all(one.right for one in found[0])
    spoken = [json.loads(one.example.private["solution"]) for one in found[0]]
    assert [one.text.splitlines()[0] for one in found[0]] == [turns[0] for turns in spoken]
    elsewhere.environment.close()
