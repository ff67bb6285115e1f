"""TextWorld's games: made once and the same everywhere, won by their expert, and closed to what a model makes up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from selfteach.errors import UserError
from selfteach.task import textworld_games
from selfteach.task.cached import cache_folder
from selfteach.task.environment import Reply, turns_of
from selfteach.task.example import Example, Message
from selfteach.task.opening import TaskOptions, open_task
from selfteach.task.textworld import TextWorldEnvironment, TextWorldSettings, TextWorldTask, observed

needs_library = pytest.mark.skipif(find_spec("textworld") is None, reason="needs the extra textworld")
SMALL = {"rooms": 1, "objects": 3, "quest": 2}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for all tests of this file: a game takes three seconds to make."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture
def task(cache: Path) -> TextWorldTask:
    return TextWorldTask(TextWorldSettings(**SMALL))


def played(environment: TextWorldEnvironment, turns: Sequence[str]) -> list[Reply]:
    return [environment.step(Message(role="assistant", content=turn)) for turn in turns]


def commands_in(message: Message) -> list[str]:
    return message["content"].partition("\nCommands:\n")[2].splitlines()


def objective_of(example: Example) -> str:
    return next(line for line in example.problem.splitlines() if line.startswith("Objective: "))


# --- without the library ------------------------------------------------------------------------------------------


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textworld_games, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'selfteach\[textworld\]'") as error:
        open_task("textworld")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("textworld?room=2", r"there is no setting 'room'; did you mean rooms\?"),
        ("textworld?quest=0", "quest"),
        ("textworld?rooms=many", "rooms"),
        ("textworld?dense=true", "set quests=2 or more"),
        ("textword", "did you mean textworld"),
    ],
)
def test_what_is_wrong_with_a_name_is_said(name: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        open_task(name)


def test_options_of_data_are_refused() -> None:
    with pytest.raises(UserError, match="does not heed answer_format"):
        open_task("textworld", options=TaskOptions(answer_format="boxed"))


def test_the_cache_lies_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "selfteach"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_folder() == Path.home() / ".cache" / "selfteach"


def test_title_status_line_and_closing_question_are_no_observation() -> None:
    opening = "\n  $$$$ title \n\nDo this.\n\n-= Attic =-\nAn attic.\n\n  A box.\n\n>        -= Attic =-0/1"
    assert observed(opening, opening=True) == "-= Attic =-\nAn attic.\nA box."
    assert observed("\nYou go.\n\n-= Hall =-\nA hall.\n\n> -= Hall =-0/2") == "You go.\n-= Hall =-\nA hall."
    assert (
        observed("\n *** The End ***\n\nWould you like to RESTART or QUIT?\n> -= Hall") == "*** The End ***"
    )


# --- with it ------------------------------------------------------------------------------------------------------


@needs_library
def test_the_name_carries_the_settings(cache: Path) -> None:
    task = open_task("textworld?rooms=2&quest=3&quests=2&dense=true&max_turns=7&games=5", seed=4)
    assert isinstance(task, TextWorldTask)
    assert task.settings == TextWorldSettings(rooms=2, quest=3, quests=2, dense=True, max_turns=7, games=5)
    assert (task.seed, task.max_turns) == (4, 7)
    assert task.games.spec == "rooms2-objects4-quest3-quests2"


@needs_library
def test_the_expert_wins_and_every_turn_of_it_was_listed(task: TextWorldTask) -> None:
    for example in (task.train(0), task.held_out(1)[0]):
        environment = task.environment()
        opened = environment.reset(example)
        assert tuple(opened) == example.prompt
        assert commands_in(opened[-1]) == list(environment.commands)
        turns = turns_of(example, "solution")
        assert example.private["plan"] == ", then ".join(turns)
        listed = commands_in(opened[-1])
        for i, turn in enumerate(turns):
            assert turn in listed
            (reply,) = played(environment, [f" {turn}\n"])
            last = i == len(turns) - 1
            assert (reply.reward, reply.done, reply.failed) == (float(last), last, False)
            assert reply.numbers["won"] == float(last)
            listed = commands_in(reply.messages[-1])
        environment.close()


@needs_library
def test_what_is_not_listed_does_nothing_and_reaches_no_interpreter(task: TextWorldTask) -> None:
    example = task.train(0)
    environment = task.environment()
    environment.reset(example)
    sent: list[str] = []
    step = environment.env.step
    environment.env.step = lambda command: sent.append(command) or step(command)
    turns, listed = turns_of(example, "solution"), list(environment.commands)
    made_up = [
        "",
        "xyzzy",
        turns[0].upper(),
        f"> {turns[0]}",
        f"{turns[0]}\n{turns[1]}",
        "quit",
        "tw-cheat",
        "restore",
    ]
    for reply in played(environment, made_up):
        assert reply.numbers == {"won": 0.0}
        assert (reply.failed, reply.reward, reply.done) == (True, 0.0, False)
        assert "not one of the commands" in reply.messages[0]["content"]
        assert commands_in(reply.messages[0]) == listed
    assert sent == []
    assert played(environment, turns)[-1].reward == 1.0
    assert sent == turns
    environment.close()


@needs_library
def test_an_episode_follows_from_its_messages(task: TextWorldTask) -> None:
    example = task.train(1)
    turns = ["look", "inventory", "nonsense", *turns_of(example, "solution")]
    one, other = task.environment(), task.environment()
    one.reset(example), other.reset(task.train(0))
    played(other, ["look"])
    first = played(one, turns)
    other.reset(example)
    assert played(other, turns) == first
    assert first[-1].done
    one.close(), other.close()


@needs_library
def test_an_example_of_other_settings_is_refused(task: TextWorldTask) -> None:
    for key in (
        "table:7+5",
        "textworld/rooms9-objects4-quest2-quests1/3",
        f"textworld/{task.games.spec}/../x",
    ):
        with pytest.raises(UserError, match="take the examples of this very task"):
            task.environment().reset(Example(key, ()))


@needs_library
def test_dense_rewards_are_the_shares_of_quests(cache: Path) -> None:
    task = TextWorldTask(TextWorldSettings(objects=4, quest=1, quests=2, dense=True))
    example = task.train(0)
    environment = task.environment()
    environment.reset(example)
    rewards = [reply.reward for reply in played(environment, turns_of(example, "solution"))]
    assert sum(rewards) == pytest.approx(1.0)
    assert max(rewards) == pytest.approx(0.5)
    environment.close()


@needs_library
def test_train_and_held_out_share_no_seed_and_no_objective(task: TextWorldTask) -> None:
    trained, held_out = [task.train(i) for i in range(3)], task.held_out(2)
    keys = {one.key for one in (*trained, *held_out)}
    assert len(keys) == 5
    objectives = [{objective_of(one) for one in side} for side in (trained, held_out)]
    assert [len(each) for each in objectives] == [3, 2]
    assert objectives[0].isdisjoint(objectives[1])
    assert task.held_out(1) == held_out[:1]
    assert TextWorldTask(task.settings, seed=9).held_out(2) == held_out


@needs_library
def test_so_many_games_as_were_asked_for_are_trained_on(cache: Path) -> None:
    some = TextWorldTask(TextWorldSettings(**SMALL, games=3))
    epochs = [[some.train(3 * epoch + i).key for i in range(3)] for epoch in range(6)]
    assert {frozenset(keys) for keys in epochs} == {frozenset(epochs[0])}
    assert len(set(epochs[0])) == 3
    assert len({tuple(keys) for keys in epochs}) > 1


@needs_library
def test_a_game_is_made_once(task: TextWorldTask, monkeypatch: pytest.MonkeyPatch) -> None:
    example = task.train(0)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(textworld_games._worker, "call", refuse)
    assert TextWorldTask(task.settings).train(0) == example
    environment = task.environment()
    environment.reset(example)
    environment.close()


@needs_library
def test_two_processes_make_the_same_game(task: TextWorldTask, tmp_path: Path) -> None:
    code = (
        "from selfteach.task.textworld import *\n"
        f"example = TextWorldTask(TextWorldSettings(**{SMALL})).train(0)\n"
        "print(json.dumps([example.key, example.prompt, dict(example.private)]))\n"
    )
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    mine = task.train(0)
    assert json.loads(done.stdout) == [mine.key, [dict(one) for one in mine.prompt], dict(mine.private)]
    assert list(tmp_path.rglob("game.z8"))
    assert not list(tmp_path.rglob(".making-*"))


@needs_library
def test_what_is_damaged_in_the_cache_is_named(task: TextWorldTask) -> None:
    seed = int(task.train(2).key.rpartition("/")[2])
    place = task.games.folder / str(seed) / "opening.json"
    whole = place.read_text()
    for text in ("{", "[]", '{"won": true}', whole.replace('"won"', '"lost"')):
        place.write_text(text)
        with pytest.raises(UserError, match="made anew"):
            task.train(2)
    place.write_text(whole)
    task.train(2)


@needs_library
def test_a_game_that_its_expert_does_not_win_is_passed_over(task: TextWorldTask) -> None:
    example = task.train(2)
    place = task.games.folder / example.key.rpartition("/")[2] / "opening.json"
    whole = place.read_text()
    place.write_text(whole.replace('"won": true', '"won": false'))
    assert task.train(2).key != example.key
    place.write_text(whole)


@needs_library
def test_impossible_settings_say_what_the_library_says(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textworld_games, "TRIES", 2)
    with pytest.raises(
        UserError, match=r"makes no game of rooms1-objects1000-quest2-quests1.*choose other settings"
    ):
        TextWorldTask(TextWorldSettings(objects=1000)).train(0)
