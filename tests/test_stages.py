"""Several trainings in a row, answers written once, knobs that move, teachers that are asked about some rows only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfteach.cli.progress import Silent
from selfteach.errors import UserError
from selfteach.objective.divergence import ReverseKL
from selfteach.objective.statistics import Statistics
from selfteach.objective.target import FromTeacher
from selfteach.objective.terms import Match, NegativeLogLikelihood, PolicyGradient, Term
from selfteach.policy.head import output_head
from selfteach.policy.loading import LoraConfig, load_policy
from selfteach.policy.renderer import ChatRenderer
from selfteach.recipes.base import Adapter, Optimization, Recipe, ReferenceProbe, Rollouts
from selfteach.recipes.writer import ByTeacher, Mixed, Revised, Writer
from selfteach.roles.attempt import Revision
from selfteach.roles.private import Partial
from selfteach.roles.role import Role
from selfteach.roles.span import FromTurn
from selfteach.roles.store import WeightStore
from selfteach.roles.view import Plain, Solution
from selfteach.roles.weights import Frozen, Lagged, Live
from selfteach.task.annotation import Annotation
from selfteach.task.arena import open_world
from selfteach.task.example import Grade
from selfteach.task.segment import Segment
from selfteach.task.trajectory import Trajectory
from selfteach.train import checkpoint
from selfteach.train.annotate import annotated, token_mask
from selfteach.train.config import Bookkeeping, Evaluation, Loading, TrainConfig
from selfteach.train.context import Context, context
from selfteach.train.loop import train
from selfteach.train.run import Run, refuse_blind_teacher
from selfteach.train.rundir import RunFolder, read_rows
from selfteach.train.saving import put_back, save
from selfteach.train.scored import detached_head
from selfteach.train.store import Store
from tiny import tiny_model_folder, tiny_tokenizer

SHORT = Rollouts(max_tokens=8)
FEW = Optimization(lr=1e-3, steps=2, prompts=4)


@dataclass(frozen=True)
class Imitation(Recipe):
    """A first stage: the teacher's answers, written once."""

    title, source, formula = "imitation", "a test", "−log p"
    rollouts: Rollouts = field(default_factory=lambda: replace(SHORT, stored=8))
    optimization: Optimization = FEW
    by: Writer = field(default_factory=lambda: ByTeacher("teacher"))

    @property
    def writer(self) -> Writer:
        return self.by

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {"teacher": Role(Frozen(), Solution())}

    def active(self, step: int) -> Collection[str]:
        return ()

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield NegativeLogLikelihood(name="nll")


@dataclass(frozen=True)
class Two(Recipe):
    """Imitation, then distillation of the self that came out of it."""

    title, source, formula = "two stages", "a test", "KL"
    rollouts: Rollouts = SHORT
    optimization: Optimization = FEW

    @property
    def stages(self) -> Mapping[str, Recipe]:
        return {"imitate": Imitation(adapter=self.adapter), "distill": self}

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {"teacher": Role(Frozen(), Solution())}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield Match(name="distill", target=FromTeacher("teacher"), divergence=ReverseKL())


@dataclass(frozen=True)
class Sampled(Two):
    """The same distillation from sampled log-probs alone, as a policy gradient."""

    signal: str = "sampled"

    @property
    def stages(self) -> Mapping[str, Recipe]:
        return {"distill": self}

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {"teacher": Role(Frozen(), Solution(), signal=self.signal)}  # type: ignore[arg-type]

    def terms(self, stats: Statistics) -> Iterable[Term]:
        advantage = stats.log_prob("teacher") - stats.log_prob()
        yield PolicyGradient(name="distill", advantage=advantage, where=stats.available("teacher"))


@dataclass(frozen=True)
class Climb:
    """A controller that raises its knob by a fixed amount, and remembers the losses it observed."""

    by: float

    def start(self, seed: int) -> Climbing:
        return Climbing(self.by)


class Climbing:
    def __init__(self, by: float) -> None:
        self.by, self.value, self.losses = by, 0.0, [0.0]

    def choose(self, progress: float) -> float:
        self.value += self.by
        return self.value

    def observe(self, row: Mapping[str, Any]) -> None:
        self.losses.append(row["loss"])

    def state(self) -> dict[str, Any]:
        return {"value": self.value, "losses": self.losses}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.value, self.losses = state["value"], list(state["losses"])


@dataclass(frozen=True)
class Exposed(Two):
    exposure: float = 0.0

    @property
    def stages(self) -> Mapping[str, Recipe]:
        return {"distill": self}

    @property
    def controllers(self) -> Mapping[str, Any]:
        return {"exposure": Climb(0.25)}

    @property
    def reference_probe(self) -> ReferenceProbe:
        return ReferenceProbe("answer", 3)

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {"teacher": Role(Frozen(), Partial(self.exposure))}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_folder(tmp_path_factory.mktemp("model")))


def config_of(recipe: Recipe, model: str, out: Path, **book: Any) -> TrainConfig:
    return TrainConfig(
        recipe=recipe,
        recipe_name="test",
        preset="test",
        task="table",
        out=out,
        loading=Loading(model=model, device="cpu"),
        evaluation=Evaluation(eval_problems=0),
        bookkeeping=Bookkeeping(**{"samples_every": 0, "checkpoint_every": 0, **book}),
    )


def run_of(recipe: Recipe, model: str, out: Path, **book: Any) -> Run:
    return Run(config_of(recipe, model, out, **book), None, Silent())


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in run.policy.trainable().items()}


# --- stages -----------------------------------------------------------------------------------------------------


def test_stages_follow_one_another_and_the_last_ones_frozen_teacher_is_what_the_first_made(
    model: str, tmp_path: Path
) -> None:
    config = config_of(Two(), model, tmp_path / "run")
    with RunFolder.create(config.out) as folder:
        run = Run(config, folder, Silent())
        before = weights(run)
        for _ in range(2):
            run.step()
        after_first = weights(run)
        train(run)
    assert run.done == 4
    with run.weights.scoring(run.specs["teacher"]) as policy:
        for name, tensor in policy.model.named_parameters():
            assert torch.equal(tensor, after_first[name])
    assert any(not torch.equal(before[name], tensor) for name, tensor in after_first.items())
    assert [row["stage"] for row in read_rows(config.out / "metrics.jsonl") if "loss" in row] == [1, 1]


def test_a_later_stages_frozen_teacher_of_a_lora_run_is_not_the_base_model(
    model: str, tmp_path: Path
) -> None:
    run = run_of(Two(adapter=Adapter(lora_rank=4)), model, tmp_path)
    run.step()
    run.enter(1)
    kept = weights(run)
    with torch.no_grad():
        for parameter in run.policy.trainable().values():
            parameter.add_(1)
    with run.weights.scoring(run.specs["teacher"]):
        for name, tensor in weights(run).items():
            assert torch.equal(kept[name], tensor)


def test_stored_answers_are_written_once_and_cost_no_tokens_later(model: str, tmp_path: Path) -> None:
    run = run_of(Imitation(), model, tmp_path)
    run.step()
    generated, stored = run.generated, run.store
    run.step()
    assert generated > 0
    assert run.generated == generated
    assert run.store is stored


def test_an_epoch_takes_every_stored_prompt_once_and_the_next_one_in_another_order() -> None:
    rollouts = [blank(i, group=i) for i in range(6)]
    store = Store(rollouts, "seed")
    epochs = [[one.group for step in (0, 1, 2) for one in store.take(step + 3 * e, 2)] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(6))
    assert epochs[0] != epochs[1]


def test_a_store_read_back_is_the_one_written(model: str, tmp_path: Path) -> None:
    run = run_of(Imitation(), model, tmp_path)
    run.step()
    assert run.store is not None
    assert Store.load(run.store_path, run.store_seed).rollouts == run.store.rollouts


def test_a_store_without_an_answer_says_so() -> None:
    with pytest.raises(UserError, match="no stored answer"):
        Store([], "seed")


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"ids": [1]}\n')
    with pytest.raises(UserError, match=r"x\.jsonl"):
        Store.load(tmp_path / "x.jsonl", "seed")


@pytest.mark.parametrize("recipe", [Two(), Exposed()], ids=lambda one: type(one).__name__)
def test_a_run_resumed_within_any_stage_goes_on_bit_for_bit(
    recipe: Recipe, model: str, tmp_path: Path
) -> None:
    config = config_of(recipe, model, tmp_path / "run")
    with RunFolder.create(config.out) as folder:
        run = Run(config, folder, Silent())
        run.step()
        save(run)
        run.step()
        there = weights(run)
    again = Run(config, None, Silent())
    again.folder = None
    path = checkpoint.latest(config.out)
    assert path is not None
    put_back(again, checkpoint.load(path))
    again.step()
    for name, tensor in weights(again).items():
        assert torch.equal(tensor, there[name]), name


# --- writers ----------------------------------------------------------------------------------------------------


def test_a_teachers_answers_stand_behind_the_students_prompt_and_carry_no_behavior(
    model: str, tmp_path: Path
) -> None:
    run = run_of(Imitation(), model, tmp_path)
    written = run.write(4)
    assert written.tokens == sum(len(one.ids) for one in written.rollouts) > 0
    for one in written.rollouts:
        assert not one.sampled
        assert one.origin == "teacher"
        assert one.prompt_ids == run.policy.renderer.prompt_ids(one.example.prompt)


def test_mixed_answers_that_never_verify_are_dropped_and_their_tokens_counted(
    model: str, tmp_path: Path
) -> None:
    recipe = Imitation(by=Mixed("teacher", share=0.5, attempts=2))
    written = run_of(recipe, model, tmp_path).write(4)
    assert written.rollouts == []
    assert written.tokens > 0


def test_a_revision_row_is_draft_and_phrase_and_revision_and_marks_the_last(
    model: str, tmp_path: Path
) -> None:
    run = run_of(Imitation(by=Revised(Revision(), revisions=2)), model, tmp_path)
    always = open_world("table")
    run.task = run.draw.task = Always(always)  # type: ignore[assignment]
    written = run.write(3)
    assert len(written.rollouts) == 6
    for one in written.rollouts:
        marks = one.marks["revision"]
        assert marks == sorted(marks)
        assert any(marks)
        before = one.text[: -len(run.policy.renderer.text(one.ids[marks.index(True) :])) or None]
        assert "That is right" in before


class Always:
    """A world in which every answer is right: a random model gets past the verifier."""

    def __init__(self, world: Any) -> None:
        self.world, self.name, self.wording, self.verdicts = world, "always", {}, {}

    def train(self, index: int) -> Any:
        return self.world.train(index)

    def held_out(self, count: int) -> Any:
        return self.world.held_out(count)

    def grade(self, example: Any, answer: str) -> Grade:
        return Grade(1.0)


# --- signals, tags, controllers ---------------------------------------------------------------------------------


def test_sampled_log_probs_give_the_step_of_the_full_distribution(model: str, tmp_path: Path) -> None:
    ends = []
    for signal in ("sampled", "full"):
        run = run_of(Sampled(signal=signal), model, tmp_path)
        torch.manual_seed(1)
        run.step()
        ends.append(weights(run))
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=1e-4, atol=1e-5)


def test_stored_sampled_signals_are_scored_once_and_equal_live_ones(model: str, tmp_path: Path) -> None:
    recipe = Sampled(rollouts=replace(SHORT, stored=4))
    run = run_of(recipe, model, tmp_path)
    run.rollouts()
    assert run.store is not None
    stored = list(run.store.rollouts)
    live = run.scorer(stored, run.contexts(stored)).measure({"teacher": lambda at: at.sampled("teacher")})
    run.step()
    assert list(run.store.rollouts) == stored
    for one, row in zip(stored, live["teacher"], strict=True):
        torch.testing.assert_close(torch.tensor(one.log_probs["teacher"]), row[: len(one.ids)])


def test_a_teacher_of_a_tag_is_asked_about_its_own_rows_and_not_blind_for_others(model: str) -> None:
    policy = load_policy(model)
    rows = [replace(blank(i), example=replace(blank(i).example, tag=tag)) for i, tag in enumerate("aab")]
    teacher = Role(Live(), Plain(), tag="a")
    seen = context(teacher, WeightStore({"policy": policy}), rows, {}, window=100)
    assert seen.available == [True, True, False]
    assert seen.elsewhere == 1
    assert seen.blind == 0


def test_a_roles_head_stays_its_own_when_the_adapters_are_exchanged_back(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path, tied=False)
    policy = load_policy(str(folder), lora=LoraConfig(rank=2, targets=("q_proj", "lm_head")))
    store, hidden = WeightStore({"policy": policy}), torch.randn(3, 64)
    store.enter([Lagged(2)])
    expected = output_head(policy.model, policy.vocabulary).logits(hidden)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(0.1)
    with store.scoring(Lagged(2)) as role:
        head = detached_head(role)
    torch.testing.assert_close(head.logits(hidden), expected)
    assert (output_head(policy.model, policy.vocabulary).logits(hidden) - expected).abs().max() > 0.1


def test_a_role_of_a_part_is_refused_as_long_as_nothing_scores_parts(model: str) -> None:
    store = WeightStore({"policy": load_policy(model)})
    with pytest.raises(UserError, match="span"):
        context(Role(Live(), span=FromTurn(1)), store, [blank(0)], {}, window=100)


def test_rows_a_teacher_does_not_see_change_nothing_in_those_it_sees(model: str, tmp_path: Path) -> None:
    run = run_of(Sampled(signal="full"), model, tmp_path)
    rollouts = run.judged(run.rollouts().rollouts)
    contexts = run.contexts(rollouts)
    column = {"q": lambda at: at.sampled("teacher")}
    whole = run.scorer(rollouts, contexts).measure(column)["q"]
    seen = contexts["teacher"]
    some = replace(seen, prompts=[None, *seen.prompts[1:]])
    part = run.scorer(rollouts, {"teacher": some}).measure(column)["q"]
    torch.testing.assert_close(part[1:], whole[1:])


def test_a_controller_moves_its_knob_and_observes_what_came_of_it(model: str, tmp_path: Path) -> None:
    run = run_of(Exposed(), model, tmp_path)
    rows = [run.step().row for _ in range(2)]
    assert [row["control/exposure"] for row in rows] == [0.25, 0.5]
    assert run.controllers["exposure"].state()["losses"] == [0.0, *[row["loss"] for row in rows]]
    assert rows[0]["reference/student"] > 0 > rows[0]["reference/teacher"]


def test_probed_examples_are_kept_out_of_training(model: str, tmp_path: Path) -> None:
    run = run_of(Exposed(), model, tmp_path)
    probed = {asked.example.key for asked in run.probed}
    trained = {one.example.key for one in run.step().rollouts}
    assert len(probed) == 3
    assert not probed & trained


# --- marks ------------------------------------------------------------------------------------------------------


def test_character_spans_become_the_tokens_that_touch_them() -> None:
    chat = ChatRenderer(tiny_tokenizer())
    ids = [*chat.tokenizer.encode("7+5=2;#2", add_special_tokens=False), chat.tokenizer.eos_token_id]
    assert token_mask(chat, ids, [(0, 6)]) == [True] * 6 + [False] * 3
    assert token_mask(chat, ids, [(7, 8)]) == [False] * 7 + [True, False]
    assert token_mask(chat, ids, []) == [False] * 9


def test_a_task_without_an_annotator_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="no annotator"):
        annotated(Always(open_world("table")), ChatRenderer(tiny_tokenizer()), [])  # type: ignore[arg-type]


def test_an_annotator_that_marks_nothing_leaves_empty_marks() -> None:
    class Quiet(Always):
        def annotate(self, example: Any, answer: str) -> Annotation | None:
            return None

    chat = ChatRenderer(tiny_tokenizer())
    one = replace(blank(0), segments=(Segment([5, 6]),), text=chat.text([5, 6]))
    marked = annotated(Quiet(open_world("table")), chat, [one])[0]  # type: ignore[arg-type]
    assert marked.annotation is None
    assert marked.marks == {"key": [False, False], "error": [False, False]}


def blank(i: int, group: int = 0) -> Trajectory:
    return Trajectory.written(open_world("table").train(i), [5], [], "", group=group, finished=True)


def test_a_view_that_waits_for_siblings_may_be_empty_but_not_too_long() -> None:
    none_yet = Context([None, None], no_privilege=2)
    refuse_blind_teacher("teacher", none_yet, 0.5, waits=True)
    for seen, waits in ((none_yet, False), (Context([None, None], too_long=2), True)):
        with pytest.raises(UserError, match="nothing to see"):
            refuse_blind_teacher("teacher", seen, 0.5, waits)
