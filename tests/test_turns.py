"""What is stored of an episode's turns: who wrote which tokens, what each earned, and what answered it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doors import run_of_recipe
from guessing import GuessingTask
from selfteach.recipes.base import Recipe
from selfteach.recipes.grpo import GRPO
from selfteach.recipes.kit import Optimization, Rollouts
from selfteach.task.example import Example, Grade, Message
from selfteach.task.segment import ENVIRONMENT, Segment
from selfteach.task.trajectory import Trajectory
from selfteach.training.text.batching import rows_of
from selfteach.training.text.evaluation import examined
from selfteach.training.text.learner import TextLearner
from selfteach.training.text.metrics import lengths_of, row_of
from selfteach.training.text.tokens import answer_row, answered, look, rollout_rows
from selfteach.training.text.turns import turns_by_row
from test_turn_contexts import FORGETFUL
from tiny import CHATML, tiny_model_folder

SMALL = {
    "rollouts": Rollouts(max_tokens=4, per_prompt=3, max_turns=3),
    "optimization": Optimization(prompts=2),
}


@pytest.fixture(scope="module", params=[CHATML, FORGETFUL], ids=["extends", "forgets"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_folder(tmp_path_factory.mktemp("model"), template=request.param))


def learner_of(recipe: Recipe, model: str, tmp_path: Path, **book: Any) -> TextLearner:
    return run_of_recipe(recipe, model, tmp_path, problems=2, task=GuessingTask(), **book)[1]


def played(learner: TextLearner, guesses: list[str]) -> Trajectory:
    """The episode of the first training example with these turns given."""
    learner.now.step = 0
    tools = learner.writing.tools(0)
    begun = [tools.started(one) for one in learner.writing.drawn(1, 0)]
    return tools.player(learner.task.environment).play(begun, 0, [guesses])[0]


def secret_and_other(learner: TextLearner) -> tuple[str, str]:
    secret = learner.task.train(0).private["answer"]
    return secret, "0" if secret != "0" else "1"


def test_each_turn_says_what_was_written_earned_and_answered(model: str, tmp_path: Path) -> None:
    learner = learner_of(GRPO(**SMALL), model, tmp_path)
    renderer = learner.policy.renderer
    secret, other = secret_and_other(learner)
    whole = played(learner, [other, "what?", secret])
    hint = "higher" if other < secret else "lower"
    expected = [(0, other, 0.01, [hint]), (1, "what?", 0.0, ["a digit!"]), (2, secret, 1.0, ["yes"])]
    for rows in ([whole], rows_of([whole])):
        by_row = turns_by_row(rows, renderer)
        assert [
            (one.turn, one.text, one.reward, [said["content"] for said in one.reply])
            for turns in by_row
            for one in turns
        ] == expected
        for row, turns in zip(rows, by_row, strict=True):
            assert [renderer.text(row.ids[one.begin : one.end]) for one in turns] == [
                one.text for one in turns
            ]
            assert all(one.author == "data" and not one.trains for one in turns)
    assert [one.illegal for one in turns_by_row([whole], renderer)[0]] == [False, True, False]


@pytest.mark.parametrize(("guesses", "illegal"), [(["what?", "hm"], True), (["S", "S"], False)])
def test_whether_a_turn_was_illegal_is_known_where_all_or_none_were(
    guesses: list[str], illegal: bool, model: str, tmp_path: Path
) -> None:
    learner = learner_of(GRPO(**SMALL), model, tmp_path)
    _, other = secret_and_other(learner)
    one = played(learner, [guess.replace("S", other) for guess in guesses])
    (turns,) = turns_by_row([one], learner.policy.renderer)
    assert [turn.illegal for turn in turns] == [illegal] * 2


def test_an_answer_of_one_turn_has_none(model: str, tmp_path: Path) -> None:
    learner = learner_of(GRPO(**SMALL), model, tmp_path)
    example = Example("k", (Message(role="user", content="1+1"),))
    ids = learner.policy.renderer.completion_ids("2", None)
    one = Trajectory.written(example, [1], ids, "2", group=0, finished=True, grade=Grade(1.0, "well done"))
    assert turns_by_row([one, one], learner.policy.renderer) == [(), ()]


def test_turns_of_a_conversation_that_nobody_pays_have_no_reward(model: str, tmp_path: Path) -> None:
    learner = learner_of(GRPO(**SMALL), model, tmp_path)
    renderer = learner.policy.renderer
    ids = renderer.completion_ids("2", None)
    said = (Message(role="assistant", content="2"), Message(role="user", content="sure?"))
    segments = (Segment(ids), Segment([5, 6], ENVIRONMENT, trains=False, messages=said), Segment(ids, turn=1))
    example = Example("k", (Message(role="user", content="1+1"),))
    one = Trajectory(example, [1], segments, "2", 0, True, grade=Grade(1.0, "a verifier's word"))
    (turns,) = turns_by_row([one], renderer)
    assert [(turn.begin, turn.end, turn.reward, turn.illegal) for turn in turns] == [
        (0, len(ids), None, None), (len(ids) + 2, 2 * len(ids) + 2, None, None),
    ]  # fmt: skip
    # What a verifier says of an answer is no environment's reply.
    assert [turn.reply for turn in turns] == [said[1:], ()]


def stored(learner: TextLearner, batch: Any) -> list[dict[str, Any]]:
    seen = look(learner, batch)
    rows = [json.loads(json.dumps(row)) for _, row in rollout_rows(seen, learner.policy.renderer)]
    assert [row["row"] for row in rows] == list(range(len(seen.rows)))
    for row, one in zip(rows, seen.rows, strict=True):
        for turn in row["turns"]:
            assert learner.policy.renderer.text(one.ids[turn["begin"] : turn["end"]]) == turn["text"]
    return rows


def test_a_look_stores_the_turns_of_whole_rollouts(model: str, tmp_path: Path) -> None:
    learner = learner_of(GRPO(**SMALL), model, tmp_path, token_rollouts=2)
    batch = learner.collect(0)
    rows = stored(learner, batch)
    trained = [row for row in rows if row["phase"] == "train"]
    first = [
        one for one in batch.rows if one.trajectory in {batch.rows[0].trajectory, trajectory_of(batch, 1)}
    ]
    assert len(trained) == len(first)
    for phase in ("train", "probe"):
        own = [row for row in rows if row["phase"] == phase]
        episodes: dict[Any, list[int]] = {}
        for row in own:
            episodes.setdefault(row.get("rollout", ("row", row["row"])), []).extend(
                t["turn"] for t in row["turns"]
            )
        assert len(episodes) == 2
        assert all(turns == list(range(len(turns))) for turns in episodes.values())
        assert [t["reward"] for row in own for t in row["turns"]].count(None) == 0


def trajectory_of(batch: Any, number: int) -> int | None:
    """The number of the batch's so-many-th rollout."""
    found: int | None = list(dict.fromkeys(one.trajectory for one in batch.rows))[number]
    return found


def test_held_out_answers_come_with_their_turns(model: str, tmp_path: Path) -> None:
    learner = learner_of(GRPO(**SMALL), model, tmp_path)
    _, answers = examined(learner)
    for one in answers:
        row = json.loads(json.dumps(answer_row(one, learner.policy.renderer)))
        assert len(row["turns"]) == row["numbers"]["turns"]
        assert sum(turn["reward"] for turn in row["turns"]) == pytest.approx(row["reward"])
        said = [
            turn["text"] if i == 0 else f"assistant: {turn['text']}" for i, turn in enumerate(row["turns"])
        ]
        assert all(words in row["answer"] for words in said)
        assert all(turn["reply"] for turn in row["turns"])


def test_the_length_of_an_episode_is_that_of_all_its_turns_whether_they_are_rows_or_not(
    model: str, tmp_path: Path
) -> None:
    learner = learner_of(GRPO(**SMALL), model, tmp_path)
    secret, other = secret_and_other(learner)
    whole = played(learner, [other, other, secret])
    rows = rows_of([whole])
    assert lengths_of(rows) == [sum(whole.mask)]
    assert lengths_of([replace(one, trajectory=None) for one in rows]) == [sum(one.mask) for one in rows]


def test_the_mean_length_is_that_of_episodes(model: str, tmp_path: Path) -> None:
    """Alarms divide it by the turns of an episode."""
    learner = learner_of(GRPO(**SMALL), model, tmp_path)
    batch = learner.collect(0)
    found = row_of(batch, learner.classes, 1.0)
    assert found["grade/turns"] > 1
    assert found["length/mean"] == pytest.approx(sum(sum(one.mask) for one in batch.rows) / 6)


def test_an_episode_is_as_long_as_what_the_environment_did_not_say() -> None:
    segments = (
        Segment([3, 4]),
        Segment([5, 6, 7], ENVIRONMENT, trains=False),
        Segment([8], turn=1, trains=False),
    )
    one = Trajectory(Example("k", (), {}), [1], segments, "", 0, True)
    assert answered(one)["length"] == 3 < len(one.ids)
