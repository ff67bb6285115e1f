"""Every token is scored after the ids it was sampled after, whatever turns and templates do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from doors import run_of_recipe
from selfteach.errors import UserError
from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import NegativeLogLikelihood, Term
from selfteach.recipes.kit import Optimization, Recipe, Rollouts
from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.role import Role
from selfteach.roles.span import FromTurn
from selfteach.roles.view import Plain, Solution
from selfteach.roles.weights import Live
from selfteach.task.example import Message
from selfteach.task.trajectory import Trajectory
from tiny import CHATML, tiny_model_folder

USER, TOOL = Message(role="user", content="go on"), Message(role="tool", content="42")
# What the assistant said is forgotten as soon as a user speaks again, as where thoughts are stripped.
FORGETFUL = (
    "{%- set ns = namespace(last=-1) -%}{%- for m in messages -%}{%- if m.role == 'user' -%}"
    "{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
) + CHATML.replace(
    "message.content +",
    "(message.content if message.role != 'assistant' or loop.index0 > ns.last else '…') +",
)


@dataclass(frozen=True)
class Three(Recipe):
    title, source, formula = "three turns", "a test", "−log π"
    rollouts: Rollouts = Rollouts(max_tokens=5)  # noqa: RUF009
    optimization: Optimization = Optimization(prompts=2)  # noqa: RUF009
    stored: int = 0
    signal: str = "full"

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {"teacher": Role(Live(), Plain(), signal=self.signal)}  # type: ignore[arg-type]

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        written = tools.sample(prompts)
        for reply in (USER, TOOL):
            written = tools.sample(tools.act(written, [(reply,)] * len(written)))
        self.check(tools, written)
        return written

    def check(self, tools: Tools, written: Sequence[Trajectory]) -> None:
        for role in ("student", "teacher"):
            for one, scores in zip(written, tools.log_probs(written, role), strict=True):
                assert len(scores) == len(one.ids)
                for score, behavior, own in zip(scores, one.behavior, one.mask, strict=True):
                    assert not own or math.isclose(score, behavior, abs_tol=1e-4)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield NegativeLogLikelihood(name="nll")


@pytest.mark.parametrize("template", [CHATML, FORGETFUL], ids=["keeps", "forgets"])
@pytest.mark.parametrize("signal", ["full", "sampled"])
def test_a_turn_behind_a_turn_of_its_own_context_keeps_what_it_was_sampled_after(
    template: str, signal: str, tmp_path: Path
) -> None:
    model = str(tiny_model_folder(tmp_path / "model", template=template))
    stored = Rollouts(max_tokens=5, stored=2 if signal == "sampled" else 0)
    _, learner = run_of_recipe(Three(signal=signal, rollouts=stored), model, tmp_path)
    batch = learner.collect(0)
    assert len(batch.rows) == (2 if template == CHATML else 4)
    stats, behavior = batch.statistics(), batch.columns.behavior
    assert behavior is not None
    for role in ("student", "teacher"):
        own = stats.log_prob(role)[stats.mask]
        torch.testing.assert_close(own, behavior[stats.mask], rtol=0, atol=1e-4)


class Shown(Three):
    """A student who writes with the solution before it."""

    @property
    def student(self) -> Role:
        return Role(Live(), Solution())

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        written = tools.sample(prompts)
        for one, scores in zip(written, tools.log_probs(written), strict=True):
            assert scores == pytest.approx(one.behavior, abs=1e-4)
        return written


def test_a_student_writes_and_is_scored_under_its_own_view(tiny: str, tmp_path: Path) -> None:
    _, learner = run_of_recipe(Shown(), tiny, tmp_path)
    batch = learner.collect(0)
    stats, behavior = batch.statistics(), batch.columns.behavior
    assert behavior is not None
    torch.testing.assert_close(stats.log_prob()[stats.mask], behavior[stats.mask], rtol=0, atol=1e-4)
    assert (stats.log_prob("teacher")[stats.mask] - behavior[stats.mask]).abs().max() > 1e-3


class Span(Three):
    def check(self, tools: Tools, written: Sequence[Trajectory]) -> None:
        """What is in front of the span is nobody's."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {"teacher": Role(Live(), Solution(), span=FromTurn(1), signal=self.signal)}  # type: ignore[arg-type]


def test_a_span_of_log_probs_alone_is_the_span_of_the_whole_distribution(tiny: str, tmp_path: Path) -> None:
    columns = []
    for signal in ("full", "sampled"):
        _, learner = run_of_recipe(Span(signal=signal), tiny, tmp_path)
        torch.manual_seed(5)
        stats = learner.collect(0).statistics()
        columns.append((stats.log_prob("teacher"), stats.seen("teacher")))
    assert torch.equal(columns[0][1], columns[1][1])
    torch.testing.assert_close(columns[0][0], columns[1][0], rtol=0, atol=1e-5, equal_nan=True)


def test_editing_and_cutting_keep_contexts_and_drop_what_was_said_later(tmp_path: Path) -> None:
    model = str(tiny_model_folder(tmp_path / "model", template=FORGETFUL))
    _, learner = run_of_recipe(Three(), model, tmp_path)
    tools, prompts = learner.writing.tools(0), learner.writing.prompts.take(1)
    one = Three().rollout(tools, prompts, 0)[0]
    begin = one.turn.index(1)
    context = next(part.context for part in one.segments if part.context is not None)
    edited = tools.edit(one, begin, "no")
    assert edited.next_context[: len(context)] == context
    assert edited.text == "no"
    assert edited.conversation == one.conversation[:2]
    assert tools.edit(one, 1, "no").conversation == ()


@pytest.mark.parametrize("template", [CHATML, FORGETFUL], ids=["keeps", "forgets"])
def test_a_fork_keeps_the_same_turns_and_answers_under_every_template(template: str, tmp_path: Path) -> None:
    model = str(tiny_model_folder(tmp_path / "model", template=template))
    _, learner = run_of_recipe(Three(), model, tmp_path)
    tools, prompts = learner.writing.tools(0), learner.writing.prompts.take(1)
    whole = Three().rollout(tools, prompts, 0)[0]
    for turns in range(3):
        fork = whole.cut(turns, text="")
        assert sorted(set(fork.turn)) == list(range(turns))
        assert fork.conversation == whole.conversation[: 2 * turns]
        assert fork.next_turn == turns
    answered = tools.act(tools.sample(prompts), [(USER,)])
    (longer,) = tools.sample(answered)
    assert longer.cut(1, text="").next_context == answered[0].next_context


def test_a_turn_that_an_edit_ends_is_not_ended_again(tiny: str, tmp_path: Path) -> None:
    _, learner = run_of_recipe(Three(), tiny, tmp_path)
    tools, renderer = learner.writing.tools(0), learner.policy.renderer
    (cut_short,) = tools.sample(learner.writing.prompts.take(1), max_tokens=3)
    assert not cut_short.finished
    edited = tools.edit(cut_short, 2, "ab")
    (acted,) = tools.act([edited], [(TOOL,)])
    assert edited.finished
    assert acted.ids == [*edited.ids, *renderer.following_ids((TOOL,))]


@pytest.mark.parametrize("template", [CHATML, FORGETFUL], ids=["keeps", "forgets"])
def test_an_edit_appended_behind_an_answer_is_a_turn_of_its_own(template: str, tmp_path: Path) -> None:
    model = str(tiny_model_folder(tmp_path / "model", template=template))
    _, learner = run_of_recipe(Three(), model, tmp_path)
    tools, prompts = learner.writing.tools(0), learner.writing.prompts.take(1)
    (answered,) = tools.act(tools.sample(prompts), [(USER,)])
    edited = tools.edit(answered, len(answered.ids), "no")
    assert edited.text == "no"
    assert set(edited.turn[len(answered.ids) :]) == {1}
    assert edited.conversation == answered.conversation
    assert edited.next_context[: len(answered.next_context)] == answered.next_context


@pytest.mark.parametrize("template", [CHATML, FORGETFUL], ids=["keeps", "forgets"])
def test_an_answer_to_no_turn_is_refused(template: str, tmp_path: Path) -> None:
    model = str(tiny_model_folder(tmp_path / "model", template=template))
    _, learner = run_of_recipe(Three(), model, tmp_path)
    tools, prompts = learner.writing.tools(0), learner.writing.prompts.take(1)
    answered = tools.act(tools.sample(prompts), [(USER,)])
    for one in (answered[0], answered[0].cut(0, text="")):
        with pytest.raises(UserError, match="has no turn to answer: sample one"):
            tools.act([one], [(TOOL,)])


def test_the_conversation_holds_the_words_that_stand_in_the_ids(tiny: str, tmp_path: Path) -> None:
    _, learner = run_of_recipe(Three(), tiny, tmp_path)
    tools, prompts = learner.writing.tools(0), learner.writing.prompts.take(1)
    (first,) = tools.sample(prompts)
    (answered,) = tools.act([first.cut(1, text="")], [(USER,)])
    assert answered.conversation[0]["content"] == answered.text == first.text != ""
    edited = tools.edit(answered, 1, "no")
    (again,) = tools.act([edited], [(USER,)])
    assert [m["content"] for m in again.conversation] == [edited.text, USER["content"]]
