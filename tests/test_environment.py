"""Episodes of several turns: who wrote which token, what each turn earned, and when an episode ends."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from doors import run_of_recipe
from guessing import GuessingTask
from selfteach.errors import UserError
from selfteach.recipes.grpo import GRPO
from selfteach.recipes.kit import Optimization, Rollouts
from selfteach.recipes.r01_opsd import OPSD
from selfteach.recipes.r11_mixsd import MixSD
from selfteach.recipes.sft import SFT
from selfteach.roles.role import Role
from selfteach.roles.view import Answer, Plain
from selfteach.roles.weights import Live
from selfteach.task.environment import Reply, opening_in, turns_of
from selfteach.task.example import Example, Message
from selfteach.task.outcome import outcome
from selfteach.task.rows import make_task
from selfteach.task.trajectory import Trajectory
from selfteach.training.text.batching import rows_of
from selfteach.training.text.evaluation import examined
from selfteach.training.text.learner import TextLearner
from selfteach.training.text.preflight.environment import environment_checks
from test_turn_contexts import FORGETFUL
from tiny import CHATML, tiny_model_folder

SMALL = {
    "rollouts": Rollouts(max_tokens=4, per_prompt=3, max_turns=3),
    "optimization": Optimization(prompts=2),
}


@pytest.fixture(scope="module", params=[CHATML, FORGETFUL], ids=["extends", "forgets"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    return str(tiny_model_folder(folder, template=request.param))


def learner_of(recipe: object, model: str, tmp_path: Path, task: GuessingTask | None = None) -> TextLearner:
    return run_of_recipe(recipe, model, tmp_path, problems=2, task=task or GuessingTask())[1]


def played(learner: TextLearner, guesses: Sequence[Sequence[str]], most: int = 0) -> list[Trajectory]:
    """Episodes of the first training examples with these turns given."""
    learner.now.step = 0
    prompts = learner.writing.drawn(len(guesses), 0)
    tools = learner.writing.tools(0)
    return (
        tools.play(prompts, max_turns=most, opening=guesses)
        if most
        else tools.player(learner.task.environment).play([tools.started(one) for one in prompts], 0, guesses)
    )


def test_every_turn_is_scored_behind_what_it_was_sampled_behind(model: str, tmp_path: Path) -> None:
    learner = learner_of(GRPO(**SMALL), model, tmp_path)
    batch = learner.collect(0)
    for one in batch.rows:
        logits = learner.policy.model(torch.tensor([[*one.prompt_ids, *one.ids]])).logits[0, :, :102]
        log_prob = logits[len(one.prompt_ids) - 1 : -1].log_softmax(-1)[range(len(one.ids)), one.ids]
        mask = torch.tensor(one.mask)
        expected = torch.tensor(one.behavior).double()[mask]
        torch.testing.assert_close(log_prob[mask], expected, rtol=0, atol=1e-4)
        assert all(author == "student" for author, own in zip(one.authors, one.mask, strict=True) if own)
        assert max(one.turn) <= 2
        assert one.grade is not None
        assert one.grade.numbers["turns"] <= 3
    assert all(one.closed for one in learner.task.made)


def test_what_each_turn_earned_stands_on_its_tokens(model: str, tmp_path: Path) -> None:
    learner = learner_of(GRPO(**SMALL), model, tmp_path)
    secret = learner.task.train(0).private["answer"]
    wrong = "0" if secret != "0" else "1"
    (one,) = played(learner, [[wrong, "what?", secret, "never said"]])
    assert one.grade is not None
    assert one.grade.reward == pytest.approx(1.01)
    assert one.finished
    assert one.grade.numbers["illegal"] == 1
    assert one.grade.numbers["misses"] == 1
    assert one.grade.numbers["turns"] == 3
    rewards = one.numbers["turn_reward"]
    assert isinstance(rewards, list)
    assert {t: {rewards[i] for i, turn in enumerate(one.turn) if turn == t} for t in set(one.turn)} == {
        0: {0.01}, 1: {0.0}, 2: {1.0},
    }  # fmt: skip
    assert one.mask == [False] * len(one.ids)
    assert one.text.startswith(wrong + "\n")
    assert one.text.endswith("yes")


def test_an_episode_ends_for_want_of_turns_or_room(model: str, tmp_path: Path) -> None:
    learner = learner_of(GRPO(**SMALL), model, tmp_path)
    tools = learner.writing.tools(0)
    (one,) = tools.play(learner.writing.drawn(1, 0), max_turns=1)
    assert one.grade is not None
    assert one.grade.numbers["out_of_turns"] == float(one.grade.reward < 1)
    player = replace(tools.player(learner.task.environment), room=lambda one: len(one.ids) < 3)
    (short,) = player.play([tools.started(one) for one in learner.writing.drawn(1, 0)], 4)
    assert short.grade is not None
    assert short.grade.numbers["out_of_room"] == float(short.grade.reward < 1) == float(not short.finished)
    assert short.grade.numbers["turns"] == 1


def test_an_environment_that_breaks_ends_its_episode_and_not_the_run(model: str, tmp_path: Path) -> None:
    learner = learner_of(GRPO(**SMALL), model, tmp_path, GuessingTask(breaks="9"))
    secrets = [learner.task.train(i).private["answer"] for i in range(3)]
    broken, *others = played(learner, [["9"], [secrets[1]], [secrets[2]]])
    assert broken.grade is not None
    assert broken.grade.numbers["environment_failed"] == 1
    assert outcome(broken.grade) == "no reward"  # nobody judged what was said: it is not wrong
    assert [one.right for one in others if one.example.private["answer"] != "9"] == [True] * sum(
        one.example.private["answer"] != "9" for one in others
    )
    with pytest.raises(UserError, match=r"failed in 2 of 2 episodes.*RuntimeError: out of order"):
        played(learner, [["9"], ["9"]])


def test_an_episode_goes_on_where_it_stood(model: str, tmp_path: Path) -> None:
    learner = learner_of(GRPO(**SMALL), model, tmp_path)
    secret = learner.task.train(0).private["answer"]
    wrong = "0" if secret != "0" else "1"
    (begun,) = played(learner, [[wrong]])
    player = learner.writing.tools(0).player(learner.task.environment)
    (again,) = player.play([begun], 0, [[secret]])
    assert again.grade is not None
    assert again.grade.reward == pytest.approx(1.01)
    assert again.grade.numbers["turns"] == 2


def test_an_experts_turns_are_imitated(model: str, tmp_path: Path) -> None:
    learner = learner_of(SFT(**SMALL), model, tmp_path)
    batch = learner.collect(0)
    assert all(one.right for one in batch.rows)
    said = [
        learner.policy.renderer.text([t for t, own in zip(one.ids, one.mask, strict=True) if own])
        for one in batch.rows
    ]
    assert "".join(said)
    assert set("".join(said)) <= set("0123456789")


def test_a_privilege_is_seen_at_every_turn(model: str, tmp_path: Path) -> None:
    """Turns apart, each a row behind a context of its own, are scored as they are in one row."""
    learner = learner_of(OPSD(**SMALL), model, tmp_path)
    secret = learner.task.train(0).private["answer"]
    wrong = [digit for digit in "0123456789" if digit != secret][:2]
    (one,) = played(learner, [[*wrong, secret]])
    role = Role(Live(), Answer(), None)
    apart = rows_of([one.turns_apart()])
    assert [len({*row.turn}) for row in apart] == [1, 1, 1]
    assert [token for row in apart for token in row.ids] == [
        token for each in one.segments if each.spoken for token in each.ids
    ]
    seen = learner.batching.reading.context(role, apart)
    shown = [learner.policy.renderer.show(ids or []) for ids in seen.prompts]
    assert all(f"answer is {secret}" in text for text in shown)
    assert "higher" in shown[1] or "lower" in shown[1]
    whole = learner.batching.reading.context(role, rows_of([one]))
    if (
        len(rows_of([one])) == 1
    ):  # the template renders what was written: the very same ids stand before each turn
        (context,) = whole.prompts
        assert context is not None
        for ids, row in zip(seen.prompts, apart, strict=True):
            assert ids is not None
            begin = next(i for i, turn in enumerate(one.turn) if turn == row.turn[0])
            assert ids == [*context, *one.ids[:begin]]


def test_turns_that_are_rows_count_once_in_their_group(model: str, tmp_path: Path) -> None:
    learner = learner_of(GRPO(**SMALL), model, tmp_path)
    learner.now.step = 0
    tools = learner.writing.tools(0)
    (prompt,) = learner.writing.drawn(1, 0)
    secret = prompt.example.private["answer"]
    wrong = [digit for digit in "0123456789" if digit != secret]
    turns = [[secret], [wrong[0], wrong[1], secret], [wrong[0], wrong[1]]]
    episodes = tools.player(learner.task.environment).play([tools.started(prompt)] * 3, 0, turns, trains=True)
    batch = learner.batching.of(episodes, [], 0, alone=True)
    reward = torch.tensor([1.0, 1.02, 0.02])
    expected = (reward - reward.mean()) / (reward.std() + 1e-4)
    stats = batch.statistics()
    advantage = GRPO(**SMALL).grpo.advantage(stats)
    number = batch.columns.trajectory
    assert number is not None
    torch.testing.assert_close(advantage.float(), expected[number], rtol=0, atol=1e-4)


def test_evaluation_plays_whole_episodes(model: str, tmp_path: Path) -> None:
    learner = learner_of(GRPO(**SMALL), model, tmp_path)
    numbers, answers = examined(learner)
    assert len(answers) == 2
    assert 1 <= numbers["eval/turns"] <= 3
    assert math.isfinite(numbers["eval/headline"])
    again, _ = examined(learner)
    assert again == numbers


def test_recipes_of_single_answers_are_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="writes single answers, but task guessing is an environment"):
        learner_of(MixSD(), model, tmp_path)


def test_a_step_that_is_no_reply_is_named(model: str, tmp_path: Path) -> None:
    class Wrong(GuessingTask):
        def environment(self) -> object:  # type: ignore[override]
            made = super().environment()
            made.step = lambda message: ("yes", 1.0, True)  # type: ignore[method-assign, assignment, return-value]
            return made

    learner = learner_of(GRPO(**SMALL), model, tmp_path, Wrong())
    with pytest.raises(UserError, match=r"step gave tuple, not a selfteach\.task\.environment\.Reply"):
        played(learner, [["1"]])


def test_a_view_that_shows_nothing_but_the_prompt_reads_the_very_ids(model: str, tmp_path: Path) -> None:
    learner = learner_of(GRPO(**SMALL), model, tmp_path)
    secret = learner.task.train(0).private["answer"]
    wrong = [digit for digit in "0123456789" if digit != secret][:2]
    (one,) = played(learner, [[*wrong, secret]])
    for rows in (rows_of([one]), rows_of([one.turns_apart()])):
        seen = learner.batching.reading.context(Role(Live(), Plain(), None), rows)
        assert seen.prompts == [row.prompt_ids for row in rows]


def test_an_episode_counts_once_and_divergence_is_told_by_turn(model: str, tmp_path: Path) -> None:
    run, learner = run_of_recipe(
        OPSD(**SMALL, view="answer"), model, tmp_path, problems=2, task=GuessingTask()
    )
    row = run.stepped()
    batch = learner.collect(1)
    episodes = {one.trajectory: one for one in reversed(batch.rows)}
    assert row["reward/mean"] <= 1.03
    turns = [name for name in row if name.startswith("divergence_by_turn/teacher/")]
    assert turns[0] == "divergence_by_turn/teacher/0"
    assert len(turns) <= 3
    assert len(episodes) == 2 * 3


def test_the_environment_of_the_documentation_trains(model: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "environments.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(text.split("```python\n# guess.py\n")[1].split("```")[0], names)
    task = make_task(names["make"])
    run, learner = run_of_recipe(GRPO(**SMALL), model, tmp_path, problems=2, task=task)
    checks = list(environment_checks(learner, task.environment))
    assert [check.name for check in checks] == [
        "environment: reset",
        "environment: repeats",
        "environment: expert",
    ]
    assert all(check.ok and not check.warns for check in checks)
    assert run.stepped()["grade/turns"] <= 3


def test_preflight_names_an_environment_that_says_other_things(model: str, tmp_path: Path) -> None:
    class Fickle(GuessingTask):
        def environment(self) -> Any:
            made = super().environment()
            number = len(self.made)
            step = made.step
            made.step = lambda message: replace(step(message), reward=float(number))  # type: ignore[method-assign]
            return made

    class Other(GuessingTask):
        def environment(self) -> Any:
            made = super().environment()
            made.reset = lambda example: example.prompt[:0]  # type: ignore[method-assign]
            return made

    class Broken(GuessingTask):
        def environment(self) -> Any:
            made = super().environment()
            made.step = lambda message: 1 / 0  # type: ignore[method-assign]
            return made

    named = {"repeats": Fickle(), "reset": Other(), "step": Broken()}
    for name, task in ((f"environment: {which}", one) for which, one in named.items()):
        learner = learner_of(GRPO(**SMALL), model, tmp_path, task)
        failed = [check for check in environment_checks(learner, task.environment) if not check.ok]
        assert [check.name for check in failed] == [name]
    # Each call of one that hangs takes as long as it may: the first is enough.
    assert [len(named[which].made) for which in ("reset", "step")] == [1, 9]


def test_a_reward_function_is_refused_beside_an_environment() -> None:
    with pytest.raises(UserError, match="rewards each turn itself"):
        make_task(GuessingTask(), reward=lambda completion: 1.0)


class Says(GuessingTask):
    """Answers each turn with what ``reply`` makes."""

    def __init__(self, reply: Any) -> None:
        super().__init__()
        self.reply = reply

    def environment(self) -> Any:
        made = super().environment()
        made.step = lambda message: self.reply()  # type: ignore[method-assign]
        return made


def user(content: Any = "no", role: Any = "user") -> Any:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (lambda: None, "step gave NoneType"),
        (lambda: Reply([user(None)]), "a role and a content"),
        (lambda: Reply([{"role": "user"}]), "a role and a content"),
        (lambda: Reply([user(role=None)]), "a role and a content"),
        (lambda: Reply("hello"), "messages is one str"),
        (lambda: Reply(user()), "messages is one dict"),
        (lambda: Reply(5), "messages is int"),
        (lambda: Reply([user(role="assistant")]), "has the role assistant"),
        (lambda: Reply([user("5" + chr(0xD800))]), "surrogate"),
        (lambda: Reply([], done=False), "no message, but the episode is not done"),
        (lambda: Reply(x for x in ()), "no message, but the episode is not done"),
        (lambda: Reply([user()], reward=math.nan), "reward of nan"),
        (lambda: Reply([user()], reward=1e300), "reward of 1e"),
        (lambda: Reply([user()], reward="1"), "reward of '1'"),
        (lambda: Reply([user()], done="no"), "done 'no'"),
        (lambda: Reply([user()], numbers={"a": None}), "a None"),
        (lambda: Reply([user()], numbers={"success": 1.0}), "counted already"),
        (lambda: Reply([user()], numbers={"a/b": 1.0}), "which is no name"),
        (lambda: Reply([user()], numbers=[1]), "numbers list"),
        (lambda: sys.exit(3), "SystemExit: 3"),
    ],
)
def test_what_is_no_reply_ends_the_episode_and_is_named(
    reply: Any, said: str, plain: str, tmp_path: Path
) -> None:
    learner = learner_of(GRPO(**SMALL), plain, tmp_path, Says(reply))
    with pytest.raises(UserError, match=re.escape(said)):
        played(learner, [["1"]])
    checks = list(environment_checks(learner, learner.task.environment))
    (failed,) = [check for check in checks if not check.ok]
    assert failed.name == "environment: step"
    assert said in failed.detail


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_folder(tmp_path_factory.mktemp("plain"), template=CHATML))


def test_messages_that_are_made_one_by_one_are_read_once(plain: str, tmp_path: Path) -> None:
    task = Says(lambda: Reply((user() for _ in range(1)), reward=0.1))
    (one,) = played(learner_of(GRPO(**SMALL), plain, tmp_path, task), [["1", "2"]])
    assert one.text == "1\nuser: no\nassistant: 2\nuser: no"


def test_what_is_said_last_is_read_by_nobody_and_may_be_long(plain: str, tmp_path: Path) -> None:
    learner = learner_of(GRPO(**SMALL), plain, tmp_path, Says(lambda: Reply([user("1 " * 4000)])))
    learner.now.step = 0
    written = learner.writing.tools(0).play(learner.writing.drawn(2, 0), max_turns=2)
    assert all(one.grade is not None and one.grade.numbers["out_of_room"] == 1 for one in written)
    assert all(one.segments[-1].spoken for one in written)
    batch = learner.batching.of(written, [], 0, alone=True)  # fits the window
    assert len(batch.rows) == 2


@pytest.mark.parametrize("turns", [0, -3, "six", "6", 1.5, True])
def test_a_tasks_own_limit_is_a_number_of_turns(turns: Any, plain: str, tmp_path: Path) -> None:
    task = GuessingTask()
    task.max_turns = turns
    with pytest.raises(
        UserError, match=r"task guessing: max_turns is .*: it must be a whole number, 1 at least"
    ):
        learner_of(GRPO(**SMALL), plain, tmp_path, task)


def test_an_environment_that_cannot_be_made_is_named(plain: str, tmp_path: Path) -> None:
    class Closed(GuessingTask):
        def environment(self) -> Any:
            raise OSError("server down")

    learner = learner_of(GRPO(**SMALL), plain, tmp_path, Closed())
    with pytest.raises(UserError, match="OSError: server down"):
        played(learner, [["1"]])
    (failed,) = [one for one in environment_checks(learner, learner.task.environment) if not one.ok][:1]
    assert "server down" in failed.detail


def test_a_template_that_refuses_what_is_said_ends_the_episode(plain: str, tmp_path: Path) -> None:
    loop = "{%- for message in messages -%}"
    refusal = "{%- if message.role == 'critic' -%}{{ raise_exception('no critics') }}{%- endif -%}"
    refusing = CHATML.replace(loop, loop + refusal)
    folder = str(tiny_model_folder(tmp_path / "model", template=refusing))
    learner = learner_of(GRPO(**SMALL), folder, tmp_path, Says(lambda: Reply([user(role="critic")])))
    with pytest.raises(UserError, match="no critics"):
        played(learner, [["1", "2"]])


@pytest.mark.parametrize("text", ["[]", "[" * 10**5 + "]" * 10**5, "{}", "[1]", ["1"]])
def test_turns_that_are_none_are_named(text: Any) -> None:
    example = Example("k", (Message(role="user", content="?"),), {"solution": text})
    with pytest.raises(UserError, match="example k: 'solution' must be a JSON list of texts"):
        turns_of(example, "solution")


def test_turns_that_were_cut_are_counted(plain: str, tmp_path: Path) -> None:
    learner = learner_of(
        GRPO(rollouts=Rollouts(max_tokens=1, per_prompt=2), optimization=Optimization(prompts=2)),
        plain,
        tmp_path,
    )
    batch = learner.collect(0)
    for one in batch.rows:
        assert one.grade is not None
        if one.grade.numbers["turns_cut"]:
            assert not one.finished
    assert any(not one.finished for one in batch.rows)


def test_an_environment_that_is_empty_is_stepped_all_the_same(plain: str, tmp_path: Path) -> None:
    """One may have a length, and be 0 long."""

    class Empty(GuessingTask):
        def environment(self) -> Any:
            made = super().environment()
            made.__class__ = type("Long", (type(made),), {"__len__": lambda self: 0})
            return made

    learner = learner_of(GRPO(**SMALL), plain, tmp_path, Empty())
    secret = learner.task.train(0).private["answer"]
    (one,) = played(learner, [[secret]])
    assert one.right
    assert all(made.closed for made in learner.task.made)


def test_a_tasks_own_limit_counts_the_turns_that_were_given(plain: str, tmp_path: Path) -> None:
    learner = learner_of(GRPO(**SMALL), plain, tmp_path)
    secret = learner.task.train(0).private["answer"]
    wrong = "0" if secret != "0" else "1"
    learner.now.step = 0
    (one,) = learner.writing.tools(0).play(learner.writing.drawn(1, 0), max_turns=9, opening=[[wrong] * 3])
    assert one.grade is not None
    assert one.grade.numbers["turns"] == 4


def test_an_opening_may_show_turns_of_an_assistant_but_not_end_in_one() -> None:
    shown = [user("1 + 1"), user("2", role="assistant"), user("2 + 2")]
    assert [one["role"] for one in opening_in(shown)] == ["user", "assistant", "user"]
    for wrong, said in ((shown[:2], "the policy's turn"), ([user(None)], "both texts"), ("hello", "one str")):
        with pytest.raises(ValueError, match=said):
            opening_in(wrong)
