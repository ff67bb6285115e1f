"""The loop and its parts, on a tiny random model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch

from runs import TextRun, config_of, run_of, scoring, weights, with_task
from selfteach.api.progress import Silent
from selfteach.cli.train import configured
from selfteach.errors import UserError
from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import NegativeLogLikelihood, Term
from selfteach.policy.loading import load_policy
from selfteach.policy.passes import Padded
from selfteach.recipes import RECIPES
from selfteach.recipes.kit import Rollouts
from selfteach.recipes.r01_opsd import OPSD
from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.role import Role
from selfteach.roles.view import Solution
from selfteach.roles.weights import Frozen
from selfteach.task.arena import open_world
from selfteach.task.example import Example
from selfteach.task.trajectory import Trajectory
from selfteach.training.jsonrows import read_rows
from selfteach.training.launch import launch
from selfteach.training.text.contexts import Context
from selfteach.training.text.preflight import examined, preflight
from selfteach.training.text.preflight.teachers import alignment_check
from selfteach.training.text.present import share
from selfteach.training.text.prompts import PromptStream, knob_of_longest
from selfteach.training.text.store import NamedStore
from tiny import tiny_model_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_folder(tmp_path_factory.mktemp("model")))


# --- one loss, however it is cut --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("opsd", "--beta", "0.5"),
        ("opsd", "--lora-rank", "4", "--weights", "ema"),
        ("grpo", "--kl", "0.1"),
        ("sft",),
    ],
    ids=" ".join,
)
def test_micro_batches_do_not_change_the_update(model: str, words: tuple[str, ...]) -> None:
    whole, cut = (run_of(model, *words[1:], *more, recipe=words[0]) for more in ((), ("--micro-batch", "3")))
    for run in (whole, cut):
        torch.manual_seed(1)
        row = run.stepped()
        assert row["grad_norm"] >= 0
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], tensor, rtol=1e-4, atol=2e-5)


def test_the_rate_warms_up_under_a_constant_schedule_too(model: str) -> None:
    run = run_of(model, "--warmup", "4", "--lr", "0.001", "--steps", "6")
    rates = [run.stepped()["lr"] for _ in range(6)]  # after the step, so of the one to come
    assert rates == pytest.approx([0.00025, 0.0005, 0.00075, 0.001, 0.001, 0.001])


def test_a_step_moves_the_student_and_not_its_frozen_teacher(model: str) -> None:
    run = run_of(model)
    before = weights(run)
    run.step()
    assert any(not torch.equal(weights(run)[name], tensor) for name, tensor in before.items())
    with scoring(run) as teacher:
        for name, tensor in teacher.model.named_parameters():
            assert torch.equal(before[name], tensor)


def test_the_same_seed_gives_the_same_run(model: str) -> None:
    first = run_of(model)
    losses = [first.stepped()["loss"] for _ in range(2)]
    second = run_of(model)  # seeds anew
    assert [second.stepped()["loss"] for _ in range(2)] == losses
    for name, tensor in weights(first).items():
        assert torch.equal(weights(second)[name], tensor)


def test_evaluating_does_not_disturb_the_run(model: str) -> None:
    plain, watched = run_of(model), run_of(model, "--eval-problems", "3")
    torch.manual_seed(1)
    plain.step()
    torch.manual_seed(1)
    watched.evaluate("before")
    watched.step()
    for name, tensor in weights(plain).items():
        assert torch.equal(weights(watched)[name], tensor)


@pytest.mark.parametrize("words", [(), ("--reason-first", "--reason-tokens", "4")], ids=" ".join)
def test_preflight_leaves_the_run_as_it_was(model: str, words: tuple[str, ...]) -> None:
    plain, checked = run_of(model, *words), run_of(model, *words)
    torch.manual_seed(1)
    plain.step()
    torch.manual_seed(1)
    preflight(checked.learner)
    checked.step()
    for name, tensor in weights(plain).items():
        assert torch.equal(weights(checked)[name], tensor)


def test_a_token_budget_ends_the_run(model: str) -> None:
    run = run_of(model, "--token-budget", "1", "--steps", "50")
    assert run.train()["steps"] == 1


# --- teachers ---------------------------------------------------------------------------------------------------


def test_reasoning_first_puts_the_teachers_own_analysis_before_the_answer(model: str) -> None:
    run = run_of(model, "--reason-first", "--reason-tokens", "5")
    rollouts, _ = run.learner.writing.rollouts(0, run.progress)
    shown = run.learner.batching.contexts(rollouts, ["teacher"])["teacher"].prompts[0]
    assert shown is not None
    text = run.learner.policy.renderer.show(shown)
    assert text.count("<|im_start|>user") == 2
    assert text.count("<|im_start|>assistant") == 2


def test_an_analysis_belongs_to_its_row_whatever_it_is_written_beside(model: str) -> None:
    """Neither torch's generator nor the other rows decide it; rows of one prompt have analyses of their own."""
    run = run_of(model, "--reason-first", "--reason-tokens", "12", "--prompts", "4")
    rollouts, _ = run.learner.writing.rollouts(0, run.progress)
    rollouts = [*rollouts, rollouts[0]]
    batching = run.learner.batching
    shown = batching.contexts(rollouts, ["teacher"])["teacher"].prompts
    torch.manual_seed(99)
    assert batching.contexts(rollouts, ["teacher"])["teacher"].prompts == shown
    assert batching.contexts(rollouts[2:4], ["teacher"])["teacher"].prompts == shown[2:4]
    assert shown[-1] != shown[0]
    run.learner.now.step = 1
    assert batching.contexts(rollouts, ["teacher"])["teacher"].prompts != shown


def test_held_out_problems_are_asked_for_once_a_run(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = run_of(model, "--eval-problems", "4").learner
    draw, drawn = type(learner.task).held_out, []
    monkeypatch.setattr(
        type(learner.task), "held_out", lambda task, count: drawn.append(count) or draw(task, count)
    )
    first, again = (learner.evaluate("train") for _ in range(2))
    assert first == again
    assert drawn == [4]


# --- what stops a run -------------------------------------------------------------------------------------------


def test_weights_that_are_not_finite_stop_the_run_and_keep_the_batch(model: str, tmp_path: Path) -> None:
    words = [
        "sft",
        "--task",
        "table",
        "--model",
        model,
        "--device",
        "cpu",
        "--eval-problems",
        "0",
        "--prompts",
        "4",
    ]
    config, _ = configured([*words, "--lr", "1e30", "--steps", "5", "--out", str(tmp_path / "run")])
    with pytest.raises(UserError, match=r"step 1.*--lr"):
        launch(config, Silent, Silent)
    assert list((tmp_path / "run" / "failed").glob("step-*.json"))
    assert [row["step"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")] == [1]


def test_a_policy_that_cannot_be_sampled_stops_the_run_in_one_line(model: str) -> None:
    run = run_of(model)
    with torch.no_grad():
        next(iter(run.learner.policy.trainable().values())).fill_(torch.nan)
    with pytest.raises(UserError, match="not finite"):
        run.step()


def test_prompts_too_long_for_the_window_are_passed_over_and_counted(model: str) -> None:
    policy, world = load_policy(model), open_world("table")
    longest = max(len(policy.renderer.prompt_ids(world.train(i).prompt)) for i in range(20))
    stream = PromptStream(world, policy, None, max_tokens=policy.window - longest + 1)
    stream.take(10)
    assert stream.too_long > 0
    assert stream.cursor == 10 + stream.too_long


def test_prompts_that_are_all_too_long_are_an_error(model: str) -> None:
    policy = load_policy(model)
    stream = PromptStream(open_world("table"), policy, None, policy.window, "--max-tokens")
    said = f"the stage's longest answer, {policy.window} tokens, exceed the model's window of {policy.window}"
    with pytest.raises(UserError, match=f"{said}; lower --max-tokens"):
        stream.take(1)


def test_the_knob_of_a_stage_s_longest_answer_is_named() -> None:
    recipe = RECIPES["lightning-opd"]()
    assert knob_of_longest(recipe, "sft") == "--sft-max-tokens"
    assert knob_of_longest(recipe, "distill") == "--max-tokens"


def test_a_stage_without_room_names_its_own_knob(model: str) -> None:
    words = ("--teacher", model, "--sft-max-tokens", "5000", "--sft-prompts", "2", "--sft-batch", "2")
    run = run_of(model, *words, recipe="lightning-opd")
    with pytest.raises(UserError, match=r"longest answer, 5000 tokens, .*; lower --sft-max-tokens"):
        run.step()


def test_a_prompt_that_no_window_holds_is_not_tokenized(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy(model)
    huge, rest = (
        Example("huge", ({"role": "user", "content": "1" * (100 * policy.window + 1)},)),
        open_world("table"),
    )
    read: list[int] = []
    ids = policy.renderer.prompt_ids

    def counted(prompt: Any, thinking: bool | None = None) -> list[int]:
        read.append(sum(len(m["content"]) for m in prompt))
        return ids(prompt, thinking)

    monkeypatch.setattr(policy.renderer, "prompt_ids", counted)
    monkeypatch.setattr(type(rest), "train", lambda self, i: huge if i == 0 else rest.held_out(1)[0])
    stream = PromptStream(rest, policy, None, max_tokens=1)
    assert len(stream.take(1)) == 1
    assert (stream.too_long, len(read)) == (1, 1)


def test_a_blind_teacher_stops_the_run(model: str) -> None:
    run = run_of(model)
    rollouts = [
        replace(one, example=replace(one.example, private={}))
        for one in run.learner.writing.rollouts(0, run.progress)[0]
    ]
    with pytest.raises(UserError, match="nothing to see"):
        run.learner.batching.contexts(rollouts, ["teacher"])


def test_prompts_must_divide_over_the_processes() -> None:
    with pytest.raises(UserError, match="multiple of 4"):
        share(6, 4)


# --- preflight --------------------------------------------------------------------------------------------------


def failures(run: TextRun) -> list[str]:
    return [check.name for check in examined(run.learner) if not check.ok]


@pytest.mark.parametrize(
    "words",
    [(), ("--lora-rank", "4"), ("--weights", "ema"), ("--precision", "bfloat16"), ("--precision", "mixed")],
)
def test_a_sound_run_passes_every_check(model: str, words: tuple[str, ...]) -> None:
    assert failures(run_of(model, *words)) == []


def test_a_template_that_forgets_the_privilege_is_refused(model: str) -> None:
    run = with_task(run_of(model), replace(open_world("table"), wording={"solution": "{problem}!"}))
    assert failures(run) == ["teacher: privilege"]
    with pytest.raises(UserError, match="does not change"):
        preflight(run.learner)


def test_a_view_with_nothing_to_show_is_refused(model: str) -> None:
    class Bare:
        name, wording, verdicts = "bare", {}, {}

        def train(self, index: int) -> Any:
            return replace(open_world("table").train(index), private={})

        def grade(self, example: Any, answer: str) -> Any:
            return open_world("table").grade(example, answer)

    run = with_task(run_of(model), Bare())
    assert failures(run) == ["teacher: view"]


def test_a_privilege_that_all_examples_share_is_held_against_none_at_all(model: str) -> None:
    world = open_world("table")

    class Ruled:
        name, wording, verdicts = "ruled", {}, {}

        def train(self, index: int) -> Any:
            return replace(world.train(index), private={"solution": "always the same"})

        def grade(self, example: Any, answer: str) -> Any:
            return world.grade(example, answer)

    assert failures(with_task(run_of(model), Ruled())) == []


SHORT = Rollouts(max_tokens=8)


@dataclass(frozen=True)
class Remembering(OPSD):
    """OPSD that quotes a private field, and notes in a store that it did."""

    quoted: str = "worked"

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        tools.store("bank").notes.setdefault("asked", []).append(len(prompts))
        return tools.quote(prompts, self.quoted)


def test_preflight_looks_at_the_recipes_own_rollouts_and_leaves_its_stores_alone(
    model: str, tmp_path: Path
) -> None:
    run = TextRun(config_of(Remembering(rollouts=SHORT), model, tmp_path))
    run.learner.writing.store("bank").notes["asked"] = [7]
    assert failures(run) == []
    assert run.learner.writing.stores == {"bank": NamedStore(notes={"asked": [7]})}
    assert run.learner.writing.prompts.cursor == 0
    with pytest.raises(UserError, match="no 'nowhere' to imitate"):
        preflight(TextRun(config_of(Remembering(rollouts=SHORT, quoted="nowhere"), model, tmp_path)).learner)


@dataclass(frozen=True)
class Choosy(OPSD):
    """OPSD that keeps what it marked, and by bad luck marks nothing short."""

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        return [one for one in tools.sample(prompts) if len(one.ids) > 10**6]

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield NegativeLogLikelihood(name="kept", weight=stats.mark("kept").float())


def test_preflight_does_not_judge_terms_by_rollouts_that_the_recipe_did_not_keep(
    model: str, tmp_path: Path
) -> None:
    run = TextRun(config_of(Choosy(rollouts=SHORT), model, tmp_path))
    assert [check.detail for check in examined(run.learner)][-1].startswith("the recipe kept none")
    assert failures(run) == []


@dataclass(frozen=True)
class HalfHeard(OPSD):
    """A loss on whole distributions, of a teacher that hands over sampled log-probs alone."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {"teacher": Role(Frozen(), Solution(), signal="sampled")}


def test_a_loss_that_reads_more_of_a_role_than_it_hands_over_is_refused(model: str, tmp_path: Path) -> None:
    run = TextRun(config_of(HalfHeard(rollouts=SHORT), model, tmp_path))
    assert failures(run) == ["objective"]
    with pytest.raises(UserError, match="distill reads the whole distribution of 'teacher'"):
        preflight(run.learner)


@pytest.mark.slow
@pytest.mark.skipif(not (which("cc") or which("gcc")), reason="torch.compile needs a C compiler")
def test_a_compiled_step_is_the_plain_one(model: str) -> None:
    plain, compiled = run_of(model), run_of(model, "--compile")
    rows = []
    for run in (plain, compiled):
        torch.manual_seed(1)
        rows.append(run.stepped())
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-5)
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], tensor, rtol=1e-4, atol=2e-5)


def test_scores_that_are_off_by_one_place_are_noticed(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, made = run_of(model), Padded.of
    assert "teacher: alignment" not in failures(run)

    def shifted(*given: Any, **more: Any) -> Padded:
        laid = made(*given, **more)
        return replace(laid, index=laid.index - 1)

    monkeypatch.setattr(Padded, "of", shifted)
    rollouts = [Trajectory.written(Example("k", ()), [5, 6, 7], [8, 9], "", group=0, finished=True)]
    assert not alignment_check("teacher", (run.learner.policy,) * 2, rollouts, Context([[3, 4, 5, 6]])).ok


def test_a_teacher_that_does_not_start_equal_is_noticed(model: str) -> None:
    run = run_of(model)
    with torch.no_grad(), scoring(run) as teacher:
        for parameter in teacher.model.parameters():
            parameter.mul_(1.05)
    assert "teacher: equality" in failures(run)
