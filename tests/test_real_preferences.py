"""What users of preference data and of reward functions bring: transcripts, equal pairs, further numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doors import run_of_recipe
from selfteach.errors import UserError
from selfteach.recipes import RECIPES, with_knobs
from selfteach.recipes.kit import Prompt
from selfteach.recipes.tools import preferred
from selfteach.task.conversation import messages_of, transcribed
from selfteach.task.example import Example, Message
from selfteach.task.judged import judged
from selfteach.task.options import TaskOptions
from selfteach.task.rows import make_task
from selfteach.task.trajectory import Trajectory
from selfteach.training.text.preflight import words_and_ids
from tiny import tiny_model_folder

HH = {
    "chosen": "\n\nHuman: What is 2+2?\n\nAssistant: Four?\n\nHuman: Sure?\n\nAssistant: Yes, 4.",
    "rejected": "\n\nHuman: What is 2+2?\n\nAssistant: Four?\n\nHuman: Sure?\n\nAssistant: No, 5.",
}
UNGRADED = TaskOptions(verifier="none")


def test_a_transcript_is_a_conversation() -> None:
    assert transcribed(HH["chosen"]) == [
        {"role": "user", "content": "What is 2+2?"},
        {"role": "assistant", "content": "Four?"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes, 4."},
    ]
    for text in ("plain", "Q\n\nHuman: hi", "", "Human: no blank line before"):
        assert transcribed(text) is None
        assert messages_of(text) is None


def test_pairs_of_transcripts_are_read_with_their_turns_before() -> None:
    example = make_task(
        [HH, {key: text.replace("2+2", "3+1") for key, text in HH.items()}], options=UNGRADED
    ).train(0)
    assert [one["role"] for one in example.prompt] == ["user", "assistant", "user"]
    assert example.problem == "Sure?"
    assert example.private["solution"] == "Yes, 4."
    assert example.private["rejected"] == "No, 5."


def test_an_answer_to_another_prompt_is_no_rival() -> None:
    other = {**HH, "rejected": HH["rejected"].replace("2+2", "9+9")}
    with pytest.raises(UserError, match="answers another prompt than the answer it is compared with"):
        make_task([HH, other], options=UNGRADED)


# --- pairs that prefer nothing


def answer(ids: list[int]) -> Trajectory:
    asked = Example("x", (Message(role="user", content="?"),))
    return Trajectory.written(asked, [1], ids, "", group=0, finished=True, origin="data")


def test_equal_answers_are_no_pair() -> None:
    one, other = answer([1, 2]), answer([1, 3])
    rows = preferred([one, one], [one, other])
    assert [row.pair for row in rows] == [None, None, 3, None]


def test_data_that_prefer_nothing_are_refused() -> None:
    class Cut:
        """Answers that differ behind the limit alone."""

        def quote(self, prompts: Any, field: str) -> list[Trajectory]:
            return [answer([1, 2])]

    tools: Any = Cut()
    example = replace(answer([1]).example, private={"solution": "a", "rejected": "b"})
    prompt = Prompt(example, [1], 0)
    with pytest.raises(UserError, match="the same tokens: mend the data, or raise max_tokens"):
        RECIPES["dpo"]().rollout(tools, [prompt], 0)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"desirable_weight": 0.0, "undesirable_weight": 0.0}, "nothing is learned"),
        ({"prompts": 1}, "set prompts to 2 at least, or loss apo_zero_unpaired"),
    ],
)
def test_kto_without_anything_to_learn_from_is_refused(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(RECIPES["kto"](), knobs)
    with_knobs(RECIPES["kto"](), {"prompts": 1, "loss": "apo_zero_unpaired"})


# --- what a reward function measures beside


def test_numbers_beside_the_score_count_and_other_things_are_left_alone() -> None:
    _, grade = judged({"score": 1, "acc": True, "pred": "7", "numbers": {"style": 0.5}})
    assert dict(grade.numbers) == {"acc": 1.0, "style": 0.5}
    assert judged({"score": 0, "numbers": None})[1].numbers == {}


@pytest.mark.parametrize(
    "said", [{"score": 0.0, "numbers": {"x": float("nan")}}, {"score": 0.0, "x": float("nan")}]
)
def test_a_bad_number_is_named(said: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="as its number 'x' nan"):
        judged(said)


# --- who cannot write, and who shares no token ids


def test_a_role_without_room_names_the_knob_that_asked_for_it(tiny: str, tmp_path: Path) -> None:
    _, learner = run_of_recipe(with_knobs(RECIPES["opsd"](), {"max_tokens": 6, "prompts": 2}), tiny, tmp_path)
    tools = learner.writing.tools(0)
    prompts = learner.writing.prompts.take(1)
    with pytest.raises(UserError, match=r"more exceed the model's window of .*: lower "):
        tools.sample(prompts, role="teacher", max_tokens=learner.policy.window)
    bare = [replace(prompts[0], example=replace(prompts[0].example, private={}))]
    with pytest.raises(UserError, match=r"has nothing to show of it \(private fields: no private field\)"):
        tools.sample(bare, role="teacher", max_tokens=2)


def test_a_writer_of_other_token_ids_is_found_before_it_is_asked(tiny: str, tmp_path: Path) -> None:
    other = str(tiny_model_folder(tmp_path / "other", template=None, padding=0))
    recipe = with_knobs(RECIPES["brts"](), {"teacher": other, "max_tokens": 6, "prompts": 2})
    _, learner = run_of_recipe(recipe, tiny, tmp_path / "run")
    found = {check.name: check for check in words_and_ids(learner)}
    assert "teacher: tokenizer" in found
