"""Several trainings in a row, answers written once, knobs that move, teachers that are asked about some rows only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import TextRun, config_of, scoring, weights, with_task
from selfteach.errors import UserError
from selfteach.objective.divergence import ReverseKL
from selfteach.objective.positions import Quantity
from selfteach.objective.statistics import Statistics
from selfteach.objective.target import FromRole
from selfteach.objective.terms import Match, NegativeLogLikelihood, PolicyGradient, Term
from selfteach.policy.loading import load_policy
from selfteach.policy.renderer import ChatRenderer
from selfteach.policy.sampler import LocalSampler
from selfteach.recipes.kit import Adapter, Optimization, Recipe, ReferenceProbe, Rollouts
from selfteach.recipes.r10_sd_zero import SelfRevision
from selfteach.recipes.r11_mixsd import MixSD
from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.private import Partial
from selfteach.roles.role import Role
from selfteach.roles.store import WeightStore
from selfteach.roles.view import Plain, Solution
from selfteach.roles.weights import Frozen, Live
from selfteach.task.annotation import Annotation
from selfteach.task.arena import open_world
from selfteach.task.example import Grade
from selfteach.task.segment import Segment
from selfteach.task.trajectory import Trajectory
from selfteach.training import resuming
from selfteach.training.jsonrows import read_rows
from selfteach.training.rundir import RunFolder
from selfteach.training.text.annotate import annotated, token_mask
from selfteach.training.text.contexts import Context, Reading, refuse_blind
from selfteach.training.text.store import NamedStore, require_answers
from selfteach.training.text.written import text_metrics
from tiny import tiny_model_folder, tiny_tokenizer

SHORT = Rollouts(max_tokens=8)
FEW = Optimization(lr=1e-3, steps=2, prompts=4)


@dataclass(frozen=True)
class Imitation(Recipe):
    """A first stage: the teacher's answers, written once."""

    title, source, formula = "imitation", "a test", "−log p"
    rollouts: Rollouts = field(default_factory=lambda: replace(SHORT, stored=8))
    optimization: Optimization = FEW

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        return tools.sample(prompts, role="teacher")

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
        yield Match(name="distill", target=FromRole("teacher"), divergence=ReverseKL())


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


def run_with(recipe: Recipe, model: str, out: Path, **book: Any) -> TextRun:
    return TextRun(config_of(recipe, model, out, **book))


# --- stages -----------------------------------------------------------------------------------------------------


def test_stages_follow_one_another_and_the_last_ones_frozen_teacher_is_what_the_first_made(
    model: str, tmp_path: Path
) -> None:
    config = config_of(Two(), model, tmp_path / "run")
    with RunFolder.create(config.out) as folder:
        run = TextRun(config, folder)
        before = weights(run)
        for _ in range(2):
            run.step()
        after_first = weights(run)
        run.train()
    assert run.done == 4
    with scoring(run) as policy:
        for name, tensor in policy.model.named_parameters():
            assert torch.equal(tensor, after_first[name])
    assert any(not torch.equal(before[name], tensor) for name, tensor in after_first.items())
    assert [row["stage"] for row in read_rows(config.out / "metrics.jsonl") if "loss" in row] == [0, 0, 1, 1]


def test_a_later_stages_frozen_teacher_of_a_lora_run_is_not_the_base_model(
    model: str, tmp_path: Path
) -> None:
    run = run_with(Two(adapter=Adapter(lora_rank=4)), model, tmp_path)
    run.step()
    run.enter(1)
    kept = weights(run)
    with torch.no_grad():
        for parameter in run.learner.policy.trainable().values():
            parameter.add_(1)
    with scoring(run):
        for name, tensor in weights(run).items():
            assert torch.equal(kept[name], tensor)


def test_stored_answers_are_written_once_and_cost_no_tokens_later(model: str, tmp_path: Path) -> None:
    run = run_with(Imitation(), model, tmp_path)
    run.step()
    generated, stored = run.spent, list(stored_in(run))
    run.step()
    assert generated > 0
    assert run.spent == generated
    assert stored_in(run) == stored != []


def test_an_epoch_takes_every_stored_prompt_once_and_the_next_one_in_another_order() -> None:
    store = NamedStore([blank(i, group=i) for i in range(6)])
    epochs = [
        [one.group for step in (0, 1, 2) for one in store.take(step + 3 * e, 2, "seed")] for e in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(6))
    assert epochs[0] != epochs[1]


def test_a_store_read_back_is_the_one_written(model: str, tmp_path: Path) -> None:
    run = run_with(Imitation(), model, tmp_path)
    run.step()
    run.learner.writing.store("train").notes["seen"] = 8
    (versions,) = run.learner.writing.state()["stores"]
    path = partial(run.learner.writing.path, "train")
    assert NamedStore.load(path, versions["train"]) == run.learner.writing.store("train")


def test_a_store_without_an_answer_says_so(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no stored answer"):
        require_answers(0)
    with pytest.raises(UserError, match="no stored answer"):
        run_with(MIXED, model, tmp_path).step()


@pytest.mark.parametrize("kept", [0, 1, 3], ids=["none", "the notes", "a whole line less"])
@pytest.mark.parametrize("more", [b"", b"{}\n", b"null\n" * 9])
def test_a_store_that_was_cut_or_changed_is_named(kept: int, more: bytes, tmp_path: Path) -> None:
    store = NamedStore([blank(i, group=i) for i in range(3)])
    written = store.save(lambda version: tmp_path / f"x-{version}.jsonl", keep=1)
    lines = (tmp_path / "x-1.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    (tmp_path / "x-1.jsonl").write_bytes(b"".join(lines[:kept]) + more)
    with pytest.raises(UserError, match=r"x-1\.jsonl"):
        NamedStore.load(lambda version: tmp_path / f"x-{version}.jsonl", written)


def test_a_store_that_has_grown_or_is_gone_is_named(tmp_path: Path) -> None:
    written = NamedStore([blank(0, group=0)]).save(lambda version: tmp_path / f"x-{version}.jsonl", keep=1)
    with (tmp_path / "x-1.jsonl").open("ab") as stream:
        stream.write(b"{}\n")
    with pytest.raises(UserError, match=r"x-1\.jsonl: the file has grown"):
        NamedStore.load(lambda version: tmp_path / f"x-{version}.jsonl", written)
    (tmp_path / "x-1.jsonl").unlink()
    with pytest.raises(UserError, match=r"x-1\.jsonl: the file is missing"):
        NamedStore.load(lambda version: tmp_path / f"x-{version}.jsonl", written)


@pytest.mark.parametrize(
    ("recipe", "steps"), [(Two(), 1), (Two(), 3), (Exposed(), 1)], ids=["first", "second", "Exposed"]
)
def test_a_run_resumed_within_any_stage_goes_on_bit_for_bit(
    recipe: Recipe, steps: int, model: str, tmp_path: Path
) -> None:
    config = config_of(recipe, model, tmp_path / "run")
    with RunFolder.create(config.out) as folder:
        run = TextRun(config, folder)
        for _ in range(steps):
            run.stepped()
        resuming.save(run)
        run.stepped()
        there = weights(run)
    again = TextRun(config)
    assert resuming.restore(again, config.out)
    again.stepped()
    for name, tensor in weights(again).items():
        assert torch.equal(tensor, there[name]), name


# --- who writes -------------------------------------------------------------------------------------------------

MIXED = MixSD(
    share=0.5, attempts=2, student_thinking=None, rollouts=replace(SHORT, stored=4), optimization=FEW
)


def test_a_roles_answers_stand_behind_the_students_prompt_with_its_own_log_probs(
    model: str, tmp_path: Path
) -> None:
    learner = run_with(Imitation(), model, tmp_path).learner
    written, generated = learner.writing.write(4, 0)
    assert generated == sum(len(one.ids) for one in written) > 0
    known = learner.writing.tools(0).log_probs(written, "teacher")
    for one, log_probs in zip(written, known, strict=True):
        assert one.origin == "teacher"
        assert one.prompt_ids == learner.policy.renderer.prompt_ids(one.example.prompt)
        assert one.behavior == pytest.approx(log_probs, abs=1e-5)
    student = learner.writing.tools(0).log_probs(written)
    assert student[0] != pytest.approx(known[0], abs=1e-2)


def test_what_a_role_wrote_is_not_measured_as_the_policys_own_text(model: str, tmp_path: Path) -> None:
    run = run_with(Imitation(), model, tmp_path)
    assert not any(name.startswith(("distinct", "repetition", "leakage")) for name in run.stepped())
    own = [replace(one, segments=(replace(one.segments[0], author="student"),)) for one in run.batch.rows]
    assert "distinct/3" in text_metrics(own, ())


def test_mixed_answers_that_never_verify_are_dropped_and_their_tokens_counted(
    model: str, tmp_path: Path
) -> None:
    written, generated = run_with(MIXED, model, tmp_path).learner.writing.write(4, 0)
    assert written == []
    assert generated > 0


def test_a_mixture_is_tried_again_where_it_was_wrong_with_the_recipes_shares(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(MIXED, share=0.3, attempts=2, mix_temperature=1.0, mix_top_k=9)
    run = with_task(run_with(recipe, model, tmp_path), EveryOther(open_world("table")))
    tools, asked = run.learner.writing.tools(0), []
    mix = tools.mix

    def listened(prompts: Sequence[Prompt], shares: Mapping[str, float], **how: Any) -> list[Trajectory]:
        asked.append(([one.group for one in prompts], dict(shares), how))
        return mix(prompts, shares, **how)

    monkeypatch.setattr(tools, "mix", listened)
    written = recipe.rollout(tools, run.learner.writing.prompts.take(4), 0)
    assert [groups for groups, _, _ in asked] == [[0, 1, 2, 3], [1, 3]]
    assert all(shares == {"novice": 0.3, "expert": 0.7} for _, shares, _ in asked)
    assert all(how == {"temperature": 1.0, "top_k": 9} for _, _, how in asked)
    assert [one.group for one in written] == [0, 1, 2]
    for one in written:
        naive, knowing = one.marks["from/novice"], one.marks["from/expert"]
        assert [a != b for a, b in zip(naive, knowing, strict=True)] == [True] * len(one.ids)


def test_a_revision_row_is_draft_and_phrase_and_revision_and_marks_the_last(
    model: str, tmp_path: Path
) -> None:
    recipe = SelfRevision(revisions=2, rollouts=replace(SHORT, stored=8), optimization=FEW)
    run = with_task(run_with(recipe, model, tmp_path), Always(open_world("table")))
    written, _ = run.learner.writing.write(3, 0)
    assert len(written) == 6
    for one in written:
        marks = one.marks["revision"]
        assert marks == sorted(marks)
        assert any(marks)
        last = run.learner.policy.renderer.text(one.ids[marks.index(True) :])
        before = one.text[: -len(last) or None]
        assert "That is right" in before


def test_only_revisions_that_verify_are_kept(model: str, tmp_path: Path) -> None:
    recipe = SelfRevision(revisions=2, rollouts=replace(SHORT, stored=8), optimization=FEW)
    written, generated = run_with(recipe, model, tmp_path).learner.writing.write(3, 0)
    assert written == []
    assert generated > 0


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


class EveryOther(Always):
    """A world whose verifier says yes to every second answer, beginning with the first."""

    def grade(self, example: Any, answer: str) -> Grade:
        self.verdicts["asked"] = self.verdicts.get("asked", 0) + 1
        return Grade(float(self.verdicts["asked"] % 2))


def stored_in(run: TextRun) -> list[Trajectory]:
    return run.learner.writing.store("train").trajectories


# --- signals, tags, controllers ---------------------------------------------------------------------------------


def test_sampled_log_probs_give_the_step_of_the_full_distribution(model: str, tmp_path: Path) -> None:
    ends = []
    for signal in ("sampled", "full"):
        run = run_with(Sampled(signal=signal), model, tmp_path)
        torch.manual_seed(1)
        run.step()
        ends.append(weights(run))
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=1e-4, atol=1e-5)


def test_stored_sampled_signals_are_scored_once_and_equal_live_ones(model: str, tmp_path: Path) -> None:
    recipe = Sampled(rollouts=replace(SHORT, stored=4))
    run = run_with(recipe, model, tmp_path)
    run.learner.writing.rollouts(0, run.progress)
    stored = list(stored_in(run))
    column = Quantity(lambda at: at.sampled("teacher"), ("teacher",))
    scored = run.learner.batching.scoring(stored, run.learner.batching.contexts(stored, ["teacher"]))
    with torch.no_grad():
        live = scored.measure({"teacher": column})
    run.step()
    assert stored_in(run) == stored
    for one, row in zip(stored, live["teacher"], strict=True):
        torch.testing.assert_close(torch.tensor(one.log_probs["teacher"]), row[: len(one.ids)])


def test_a_teacher_of_a_tag_is_asked_about_its_own_rows_and_not_blind_for_others(model: str) -> None:
    policy = load_policy(model)
    rows = [replace(blank(i), example=replace(blank(i).example, tag=tag)) for i, tag in enumerate("aab")]
    teacher = Role(Live(), Plain(), tag="a")
    seen = Reading(WeightStore({"policy": policy}), LocalSampler, {}).context(teacher, rows)
    assert seen.available == [True, True, False]
    assert seen.elsewhere == 1
    refuse_blind({"teacher": seen}, {"teacher": False}, 0.0)


def test_rows_a_teacher_does_not_see_change_nothing_in_those_it_sees(model: str, tmp_path: Path) -> None:
    learner = run_with(Sampled(signal="full"), model, tmp_path).learner
    rollouts = learner.writing.judged(learner.writing.rollouts(0, learner.progress)[0])
    contexts = learner.batching.contexts(rollouts, ["teacher"])
    column = {"q": Quantity(lambda at: at.sampled("teacher"), ("teacher",))}
    seen = contexts["teacher"]
    some = replace(seen, prompts=[None, *seen.prompts[1:]])
    with torch.no_grad():
        whole = learner.batching.scoring(rollouts, contexts).measure(column)["q"]
        part = learner.batching.scoring(rollouts, {"teacher": some}).measure(column)["q"]
    torch.testing.assert_close(part[1:], whole[1:])


def test_a_controller_moves_its_knob_and_observes_what_came_of_it(model: str, tmp_path: Path) -> None:
    run = run_with(Exposed(), model, tmp_path)
    rows = [run.stepped() for _ in range(2)]
    assert [row["control/exposure"] for row in rows] == [0.25, 0.5]
    assert run.learner.controllers["exposure"].state()["losses"] == [0.0, *[row["loss"] for row in rows]]
    assert rows[0]["reference/student"] > 0 > rows[0]["reference/teacher"]


def test_probed_examples_are_kept_out_of_training(model: str, tmp_path: Path) -> None:
    run = run_with(Exposed(), model, tmp_path)
    probed = {prompt.example.key for prompt in run.learner.writing.probed}
    run.step()
    trained = {one.example.key for one in run.batch.rows}
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
    refuse_blind({"teacher": none_yet}, {"teacher": True}, 0.5)
    for seen, waits in ((none_yet, False), (Context([None, None], too_long=2), True)):
        with pytest.raises(UserError, match="nothing to see"):
            refuse_blind({"teacher": seen}, {"teacher": waits}, 0.5)
