"""Views of what a rollout found out, and the tools that a rollout looks and cuts with."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from doors import run_of_recipe
from selfteach.errors import UserError
from selfteach.recipes.kit import (
    STUDENT,
    Live,
    NegativeLogLikelihood,
    Optimization,
    Positions,
    Prompt,
    Quantity,
    Recipe,
    Role,
    Rollouts,
    Statistics,
    Term,
    Told,
    Tools,
    Trajectory,
    settings,
)
from selfteach.task.example import Example, Message

SAID = (Message(role="system", content="Be brief."), Message(role="user", content="1 + 1?"))
EXAMPLE = Example("one", SAID, {"answer": "2"})


def blank(example: Example = EXAMPLE, text: str = "") -> Trajectory:
    return replace(Trajectory.written(example, [1], [2], text, group=0, finished=True))


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("user", [("system", "Be brief."), ("user", "1 + 1? Critic: too long")]),
        ("system", [("system", "1 + 1? Critic: too long\n\nBe brief."), ("user", "1 + 1?")]),
        ("mouth", [("system", "Be brief."), ("user", "1 + 1?"), ("assistant", "1 + 1? Critic: too long")]),
    ],
)
def test_what_was_told_stands_in_its_place(place: str, shown: list[tuple[str, str]]) -> None:
    view = Told("{problem} Critic: {critique}", place=place)  # type: ignore[arg-type]
    messages = view(blank().told(critique="too long"), [], {})
    assert messages is not None
    assert [(one["role"], one["content"]) for one in messages] == shown


def test_a_view_of_what_was_not_told_shows_nothing_or_the_bare_prompt() -> None:
    assert Told("{problem} {critique}")(blank(), [], {}) is None
    assert Told("{problem} {critique}")(blank().told(critique=""), [], {}) is None
    assert Told("{problem} {critique}", otherwise="plain")(blank(), [], {}) == SAID


def test_it_may_show_the_attempt_and_the_task_may_word_it() -> None:
    view = Told("{problem}|{attempt}|{critique}", name="critic")
    told = blank(text="three").told(critique="no")
    assert view(told, [], {})[-1]["content"] == "1 + 1?|three|no"  # type: ignore[index]
    assert view(told, [], {"critic": "{critique}!"})[-1]["content"] == "no!"  # type: ignore[index]


def test_what_is_told_leaves_braces_of_a_text_alone() -> None:
    told = blank().told(critique="see {answer}")
    assert Told("{critique}")(told, [], {})[-1]["content"] == "see {answer}"  # type: ignore[index]


def test_telling_adds_to_what_is_private_and_changes_nothing_else() -> None:
    prompt = Prompt(EXAMPLE, [1, 2], 3).told(critique="no")
    assert prompt.example.private == {"answer": "2", "critique": "no"}
    assert EXAMPLE.private == {"answer": "2"}
    assert (prompt.prompt_ids, prompt.group, prompt.example.prompt) == ([1, 2], 3, SAID)


def entropy_of(at: Positions) -> torch.Tensor:
    chance = at.probs(STUDENT)
    return -(chance * at.log_probs(STUDENT)).sum(1)


@settings
class Looking(Recipe):
    """Samples, looks, cuts, goes on, and keeps a row behind a prompt of its own."""

    title, source, formula = "looking", "a test", "−log π"
    rollouts: Rollouts = Rollouts(per_prompt=2, max_tokens=6)
    optimization: Optimization = Optimization(prompts=2)

    @property
    def writers(self) -> dict[str, Role]:
        return {"critic": Role(Live(), Told("{problem} Look: {attempt}", name="look"))}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        first = tools.sample(prompts, 1)
        told = [one.told(critique="worse") for one in first]
        behind = [tools.prompt(one, Told("{problem} then {critique}", name="then")) for one in told]
        again = tools.sample([one for one in behind if one is not None], 1, temperature=0.5)
        return [*first, *again]

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield NegativeLogLikelihood(name="nll")


def test_a_prompt_leaves_as_much_room_as_is_asked_of_it(tiny: str, tmp_path: Path) -> None:
    _, learner = run_of_recipe(Looking(), tiny, tmp_path)
    tools = learner.writing.tools(0)
    (one,) = learner.writing.prompts.take(1)

    def shown(signs: int, room: int | None) -> int | None:
        found = tools.prompt(one, Told("{problem}" + "1" * signs, name="long"), room)
        return None if found is None else len(found.prompt_ids)

    window, fixed = learner.policy.window, shown(1, 0)
    assert fixed is not None
    for left in (0, 3, 6):
        signs = 1 + window - fixed - left
        assert shown(signs, left) == window - left
        assert shown(signs, left + 1) is None
        assert (shown(signs, None) is None) is (left < 6), "max_tokens are left unless told otherwise"


def test_a_row_may_stand_behind_a_prompt_of_its_own(tiny: str, tmp_path: Path) -> None:
    run, learner = run_of_recipe(Looking(), tiny, tmp_path)
    rows = learner.collect(0).rows
    first, again = rows[:2], rows[2:]
    assert len(again) == 2
    for one, other in zip(first, again, strict=True):
        assert other.example.prompt[-1]["content"] == f"{one.example.problem} then worse"
        assert other.example.problem == one.example.problem
        assert other.grade == learner.task.grade(one.example, other.text)
        assert Trajectory.from_json(json.loads(json.dumps(other.to_json()))) == replace(other)
        assert other.prompt_ids != one.prompt_ids
        assert other.prompt_ids == learner.policy.renderer.prompt_ids(other.example.prompt)
        assert (one.temperature, other.temperature) == (1.0, 0.5)
        assert (other.group, other.sampled) == (one.group, True)
    run.step()


def test_what_is_measured_is_what_the_loss_would_see(tiny: str, tmp_path: Path) -> None:
    _, learner = run_of_recipe(Looking(), tiny, tmp_path)
    tools = learner.writing.tools(0)
    written = tools.sample(learner.writing.prompts.take(2), 2)
    wanted = {
        "h": Quantity(entropy_of),
        "p": Quantity(partial(Positions.sampled, role=STUDENT, temperature=1.0)),
    }
    found = tools.measure(written, wanted)
    for one, h, p, own in zip(written, found["h"], found["p"], tools.log_probs(written), strict=True):
        assert len(h) == len(one.ids)
        assert all(0 <= value <= math.log(learner.policy.vocabulary) + 1e-5 for value in h)
        assert p == pytest.approx(own, abs=1e-6)
        assert p == pytest.approx(one.behavior, abs=1e-4)


def test_a_cut_keeps_what_was_written_and_forces_what_was_not(tiny: str, tmp_path: Path) -> None:
    _, learner = run_of_recipe(Looking(), tiny, tmp_path)
    tools = learner.writing.tools(0)
    renderer = learner.policy.renderer
    (one,) = tools.sample(learner.writing.prompts.take(1))
    kept = tools.cut(one, 2)
    assert (kept.ids, kept.text) == (one.ids[:2], renderer.text(one.ids[:2]))
    assert kept.behavior == one.behavior[:2]
    assert (kept.finished, kept.fork) == (False, 2)
    forced = tools.cut(one, 2, then=[one.ids[0]])
    assert forced.ids == [*one.ids[:2], one.ids[0]]
    assert math.isnan(forced.behavior[2])
    assert not forced.finished
    on = tools.sample([forced], 2, max_tokens=3)
    assert all(each.ids[:3] == forced.ids and len(each.ids) > 3 for each in on)
    assert tools.cut(one, 1, then=[min(renderer.stop_ids)]).finished
    assert tools.cut(one, 0).ids == []
    with pytest.raises(ValueError, match="tokens is 99: the trajectory has"):
        tools.cut(one, 99)


def test_a_place_in_the_text_is_a_token(tiny: str, tmp_path: Path) -> None:
    _, learner = run_of_recipe(Looking(), tiny, tmp_path)
    tools = learner.writing.tools(0)
    (one,) = tools.sample(learner.writing.prompts.take(1))
    for character in range(len(one.text)):
        token = tools.token_at(one, character)
        assert len(tools.text(one.ids[:token])) <= character < len(tools.text(one.ids[: token + 1]))
    assert tools.token_at(one, len(one.text) + 10) == len(one.ids)


def test_the_coldest_of_a_call_is_the_likeliest(tiny: str, tmp_path: Path) -> None:
    _, learner = run_of_recipe(Looking(), tiny, tmp_path)
    tools = learner.writing.tools(0)
    prompts = learner.writing.prompts.take(2)
    one, two = tools.sample(prompts, 1, temperature=0), tools.sample(prompts, 1, temperature=0)
    assert [each.ids for each in one] == [each.ids for each in two]
    top = tools.measure(one, {"top": Quantity(lambda at: at.logits[STUDENT].argmax(1).float())})["top"]
    assert [each.ids for each in one] == [[int(token) for token in each] for each in top]
    with pytest.raises(UserError, match="top_p is 2"):
        tools.sample(prompts, 1, top_p=2.0)


def test_a_writer_is_asked_and_never_scores(tiny: str, tmp_path: Path) -> None:
    recipe = Looking()
    assert list(recipe.roles) == ["student", "critic"]
    assert recipe.active(0) == ()
    _, learner = run_of_recipe(recipe, tiny, tmp_path)
    tools = learner.writing.tools(0)
    said = tools.sample(tools.sample(learner.writing.prompts.take(1)), 1, role="critic", max_tokens=2)
    assert said[0].authors[-1] == "critic"
    assert list(learner.collect(0).scoring.contexts) == []
