"""The Trainer's own promises, on learners of a few numbers: what is refused, when things are due, who is told what."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch import nn

from selfteach.errors import NotFinite, UserError
from selfteach.training import checkpoint, reduce
from selfteach.training.clock import Clock
from selfteach.training.interruption import TOLD, Interrupted
from selfteach.training.jsonrows import read_rows
from selfteach.training.learner import Learner, Numbers, Role, Sample, Stage, Trained, Update
from selfteach.training.progress import Silent
from selfteach.training.running import run_learner
from selfteach.training.schedule import scheduled
from selfteach.training.trainer import Settings, Trainer

CPU = Settings(device="cpu", alarms=False)


class Slope(Learner):
    """Two weights, each pushed by a loss of its own: ∂/∂a = 1, ∂/∂b = 2, so that plain SGD at rate 1 counts steps."""

    unit, headline = "pushes", "a"

    def __init__(self, *stages: tuple[str, int], max_grad_norm: float | None = None) -> None:
        self.stages = [Stage(*one) for one in stages or [("push", 6)]]
        self.bound, self.told, self.order = max_grad_norm, list[str](), ("a", "b")
        self.net = nn.ParameterDict({name: nn.Parameter(torch.zeros(2)) for name in ("a", "b")})

    def modules(self) -> Mapping[str, nn.Module]:
        return {"net": self.net}

    def enter(self, stage: int) -> None:
        self.told.append(f"enter {stage}")

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        return {
            name: Trained(torch.optim.SGD([p], 1.0), {name: p}, max_grad_norm=self.bound)
            for name, p in self.net.items()
        }

    def roles(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Average]:
        return {"average": Average(self)}

    def collect(self, step: int) -> int:
        self.told.append(f"collect {step}")
        return step

    def updates(self, batch: int) -> Iterator[Update]:
        for name in self.order:
            self.told.append(f"{name} sees {self.net[name][0].item():g}")
            yield Update((name,), lambda name=name: self.push(name))

    def push(self, name: str) -> Numbers:
        (self.net["a"].sum() + 2 * self.net["b"].sum()).backward()
        return {"loss": 0.5, f"pushed/{name}": 1.0}

    def spent(self, batch: int) -> int:
        return 3

    def evaluate(self, phase: str) -> Mapping[str, float]:
        self.told.append(f"evaluate {phase}")
        return {"eval/headline": self.net["a"][0].item()}

    def samples(self, batch: int | None, phase: str) -> list[Sample]:
        return [Sample("episode", {"batch": batch})]


class Average:
    """A role that averages a with decay 1/2 whenever a's optimizer has stepped."""

    def __init__(self, learner: Slope) -> None:
        self.learner, self.value = learner, 0.0

    def after_step(self, moved: Collection[str]) -> None:
        if "a" in moved:
            self.value = (self.value + self.learner.net["a"][0].item()) / 2
        self.learner.told.append(f"averaged after {','.join(moved)}")

    def after_batch(self) -> None:
        self.learner.told.append("batch over")

    def state(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.value = state["value"]


def trainer(learner: Learner, **changes: Any) -> Trainer:
    return Trainer(learner, None, Silent(), replace(CPU, **changes))


def test_each_update_steps_its_own_optimizer_and_the_next_one_sees_it() -> None:
    learner = Slope()
    learner.order = ("a", "b", "a")
    run = trainer(learner)
    run.step()
    assert learner.net["a"].tolist() == [-2, -2]
    # One step of twice the slope: the backward of a's update left nothing behind.
    assert learner.net["b"].tolist() == [-2, -2]
    assert learner.told == [
        "enter 0", "collect 0", "a sees 0", "averaged after a", "b sees 0", "averaged after b", "a sees -1",
        "averaged after a", "batch over",
    ]  # fmt: skip
    assert run.roles["average"].state() == {"value": -1.25}
    assert all(parameter.grad is None for parameter in learner.net.values())


def test_a_row_has_means_over_updates_and_a_rate_and_norm_by_optimizer(tmp_path: Path) -> None:
    run_learner(Slope(max_grad_norm=1.0), tmp_path / "run", CPU)
    row = next(
        row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["step"] == 2 and "loss" in row
    )
    assert row["loss"] == 0.5
    assert (row["pushed/a"], row["pushed/b"]) == (1.0, 1.0)
    assert (row["lr/a"], row["lr/b"]) == (1.0, 1.0)
    assert (row["grad_norm/a"], row["grad_norm/b"]) == pytest.approx((2**0.5, 8**0.5))
    assert row["spent/pushes"] == 6
    assert {"seconds/collect", "seconds/update", "memory/peak_bytes"} <= set(row)
    assert "stage" not in row


def test_clipping_bounds_each_optimizers_own_gradient() -> None:
    learner = Slope(max_grad_norm=1.0)
    trainer(learner).step()
    for parameter in learner.net.values():
        assert parameter.norm().item() == pytest.approx(1.0)


def test_stages_come_in_turn_may_repeat_and_are_evaluated_at_their_end(tmp_path: Path) -> None:
    learner = Slope(("wake", 2), ("sleep", 1), ("wake", 2))
    run_learner(learner, tmp_path / "run", replace(CPU, eval_every=0))
    assert [one for one in learner.told if one.split()[0] in ("enter", "collect", "evaluate")] == [
        "enter 0", "evaluate before", "collect 0", "collect 1", "evaluate train", "enter 1", "collect 0",
        "evaluate train", "enter 2", "collect 0", "collect 1", "evaluate after",
    ]  # fmt: skip
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert [row["stage"] for row in rows] == [0, 0, 1, 2, 2]


def test_the_budget_ends_a_run_before_the_step_that_would_begin_beyond_it() -> None:
    run = trainer(Slope(), budget=7)
    run.progress = heard = Heard()
    assert run.train()["spent"] == 9
    assert run.done == 3
    assert heard.said == ["the budget of 7 pushes is spent: ended after step 3 of 6"]


def test_a_learner_that_has_nothing_left_to_learn_ends_the_run() -> None:
    class Solved(Slope):
        def finished(self) -> bool:
            return self.net["a"][0].item() <= -2

    assert trainer(Solved()).train()["steps"] == 2


def test_samples_are_due_before_after_step_1_and_every_so_often(tmp_path: Path) -> None:
    run_learner(Slope(), tmp_path / "run", replace(CPU, samples_every=4))
    rows = read_rows(tmp_path / "run" / "samples.jsonl")
    assert [(row["step"], row["phase"], row["batch"]) for row in rows] == [
        (0, "before", None), (1, "train", 0), (4, "train", 3), (6, "after", None),
    ]  # fmt: skip


def test_the_summary_has_what_was_spent_its_unit_and_the_headline(tmp_path: Path) -> None:
    class Counting(Slope):
        def summary(self) -> Mapping[str, Any]:
            return {"batches": self.told.count("batch over")}

    _, summary = run_learner(Counting(), tmp_path / "run", CPU)
    assert summary["batches"] == 6
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert (summary["steps"], summary["spent"], summary["unit"], summary["headline"]) == (
        6,
        18,
        "pushes",
        -6.0,
    )


# --- what stops a run -------------------------------------------------------------------------------------------


def broken(where: str) -> Slope:
    class Broken(Slope):
        def collect(self, step: int) -> int:
            if where == "collect" and step == 3:
                raise NotFinite("the sampler's distribution is not finite")
            return super().collect(step)

        def updates(self, batch: int) -> Iterator[Update]:
            if where == "updates" and batch == 3:
                raise NotFinite("the statistics are NaN")
            yield from super().updates(batch)

        def push(self, name: str) -> Numbers:
            numbers = dict(super().push(name))
            if self.told.count("batch over") == 3:
                if where == "loss":
                    numbers["loss"] = float("nan")
                if where == "term":
                    numbers["pushed/a"] = float("inf")
                if where == "backward":
                    raise NotFinite("a log-prob is NaN")
                if where == "gradient":
                    self.net["a"].grad.fill_(float("inf"))  # type: ignore[union-attr]
                if where == "update":
                    self.overflow()
            return numbers

        def overflow(self) -> None:
            """Finite loss, gradient and weights, and a step beyond the largest number."""
            self.net["a"].data.fill_(-3e38)

        def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
            made = super().optimizers(wrapped)
            made["a"].optimizer.register_step_pre_hook(self.overflowing)
            return made

        def overflowing(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
            if where == "update" and self.told.count("batch over") == 3:
                optimizer.param_groups[0]["lr"] = 1e38

        def after_step(self, weights: Mapping[str, nn.Parameter], evaluate: Callable[[], float]) -> bool:
            if where == "hook" and self.net["a"][0].item() == -4:
                with torch.no_grad():
                    weights["net.b"].fill_(float("nan"))
                return True
            return False

        def evaluate(self, phase: str) -> Mapping[str, float]:
            if where == "evaluate" and self.told.count("batch over") == 3:
                raise NotFinite("the held-out distribution is NaN")
            return super().evaluate(phase)

        def samples(self, batch: int | None, phase: str) -> list[Sample]:
            if where == "samples" and self.told.count("batch over") == 3:
                raise NotFinite("the look's distribution is NaN")
            return []

        def metrics(self, batch: int, done: Sequence[Numbers]) -> Mapping[str, Any]:
            if where == "metrics" and batch == 3:
                raise NotFinite("a measured log-prob is NaN")
            return {}

        def failed(self, batch: int | None) -> Mapping[str, Any]:
            return {"batch": batch, "weights": self.net["a"].detach()}

    return Broken()


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("collect", "sampler's distribution is not finite"),
        ("loss", "loss is nan"),
        ("term", "pushed/a is inf"),
        ("updates", "statistics are NaN"),
        ("backward", "log-prob is NaN"),
        ("gradient", "grad norm/a is inf"),
        ("update", "after the update net.a is not finite"),
        ("hook", "after the update net.b is not finite"),
    ],
)
def test_what_is_not_finite_stops_the_run_in_one_line_and_keeps_the_batch(
    tmp_path: Path, where: str, what: str
) -> None:
    with pytest.raises(UserError) as problem:
        run_learner(broken(where), tmp_path / "run", replace(CPU, checkpoint_every=1))
    said = str(problem.value)
    assert f"{what} at step 3; the batch is in" in said
    assert "\n" not in said
    assert "the last checkpoint is intact" in said
    assert (tmp_path / "run" / "failed" / "step-3.json").exists()
    saved = checkpoint.load(checkpoint.latest(tmp_path / "run"))  # type: ignore[arg-type]
    assert saved["progress"]["step"] == 3
    assert saved["weights"]["net"]["a"].tolist() == [-3, -3]


def test_an_evaluation_that_is_not_finite_stops_the_run_too() -> None:
    with pytest.raises(UserError, match="held-out distribution is NaN at step 3"):
        trainer(broken("evaluate"), eval_every=1).train()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_headline_that_is_no_number_stops_the_run_too(value: float, tmp_path: Path) -> None:
    """Otherwise broken weights would be exported, and the run end as one that is well."""

    class Lost(Slope):
        def evaluate(self, phase: str) -> Mapping[str, float]:
            return {"eval/headline": value if phase == "after" else 0.0}

    with pytest.raises(
        UserError, match=rf"eval/headline is {value} at step \d+;.* checkpoint .*learning rate"
    ) as found:
        run_learner(Lost(), tmp_path / "run", CPU)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_look_or_a_measurement_that_is_not_finite_stops_the_run_too() -> None:
    with pytest.raises(UserError, match="look's distribution is NaN at step 3; there is no checkpoint yet"):
        trainer(broken("samples"), samples_every=1).train()
    with pytest.raises(UserError, match="measured log-prob is NaN at step 4; there is no checkpoint yet"):
        trainer(broken("metrics")).train()


@pytest.mark.parametrize("what", ["weights", "roles", "optimizers"])
def test_what_a_checkpoint_would_hold_is_looked_at_when_it_is_saved(tmp_path: Path, what: str) -> None:
    """Nobody's update broke it: a copy that follows, an optimizer's average, a buffer set on the side."""

    class Poisoned(Slope):
        def observe(self, row: Mapping[str, Any]) -> None:
            if row["step"] != 3:
                return
            if what == "weights":
                self.net["b"].data.fill_(float("inf"))
            elif what == "roles":
                self.role.kept = torch.tensor([1.0, float("nan")])
            else:
                self.made["a"].optimizer.state[self.net["a"]]["exp_avg_sq"] = torch.tensor([float("inf")] * 2)

        def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
            self.made = super().optimizers(wrapped)
            return self.made

        def roles(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Role]:
            self.role = Keeper()
            return {"kept": self.role}

    with pytest.raises(UserError) as problem:
        run_learner(Poisoned(), tmp_path / "run", replace(CPU, checkpoint_every=1))
    said = str(problem.value)
    assert f"the checkpoint would be broken: {what}/" in said
    assert "is not finite at step 3" in said
    assert "the last checkpoint is intact" in said
    assert checkpoint.step_of(checkpoint.latest(tmp_path / "run")) == 2  # type: ignore[arg-type]


class Keeper:
    """A role that keeps a tensor."""

    def __init__(self) -> None:
        self.kept = torch.zeros(2)

    def after_step(self, moved: Collection[str]) -> None: ...

    def after_batch(self) -> None: ...

    def state(self) -> dict[str, Any]:
        return {"kept": self.kept}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.kept = state["kept"]


# --- memory -----------------------------------------------------------------------------------------------------------


def allocate_too_much() -> None:
    torch.empty(10**15)


def on_a_device() -> None:
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.1 GiB.\nIf reserved …"
    )


def in_python() -> None:
    raise MemoryError


OUT_OF_MEMORY = {
    "torch": (allocate_too_much, "tried to allocate 4000000000000000 bytes"),
    "device": (on_a_device, "tried to allocate 2.50 GiB"),
    "python": (in_python, "MemoryError"),
}


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
@pytest.mark.parametrize(
    ("where", "batches", "doing"),
    [
        ("collect", 3, "collecting the batch at step 3"),
        ("push", 3, "scoring and updating at step 3"),
        ("metrics", 4, "measuring the step at step 4"),
        ("samples", 4, "looking at rollouts at step 4"),
        ("evaluate", 4, "evaluating at step 4"),
        ("state", 4, "saving a checkpoint at step 4"),
        ("export", 6, "saving the model at step 6"),
    ],
)
def test_memory_that_is_used_up_is_one_line_with_advice(
    tmp_path: Path, where: str, batches: int, doing: str, kind: str
) -> None:
    run_out, said_by_it = OUT_OF_MEMORY[kind]

    class Large(Slope):
        def memory_advice(self, doing: str) -> str:
            return "rent a larger machine"

    def failing(self: Large, *arguments: Any) -> Any:
        if self.told.count("batch over") == batches:
            run_out()
        return getattr(super(Large, self), where)(*arguments)

    setattr(Large, where, failing)
    settings = replace(CPU, checkpoint_every=2, eval_every=4, samples_every=4)
    with pytest.raises(UserError) as problem:
        run_learner(Large(), tmp_path / "run", settings)
    said = str(problem.value)
    assert f"out of memory while {doing} ({said_by_it}); the last checkpoint is intact" in said
    assert said.endswith("rent a larger machine; then use --resume")
    assert "\n" not in said
    assert not (tmp_path / "run" / "failed").exists()
    assert checkpoint.latest(tmp_path / "run") is not None


def test_another_error_is_not_taken_for_memory() -> None:
    class Wrong(Slope):
        def collect(self, step: int) -> int:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        trainer(Wrong()).train()


def test_an_evaluation_without_a_headline_is_named() -> None:
    class Mute(Slope):
        def evaluate(self, phase: str) -> Mapping[str, float]:
            return {"eval/accuracy": 0.5}

    with pytest.raises(ValueError, match=r"Mute\.evaluate gave no eval/headline"):
        trainer(Mute()).train()


# --- the hook ---------------------------------------------------------------------------------------------------


class Foresight(Slope):
    """Extrapolates a at every step that is a power of two, and keeps it only where that helps (as card 39 does)."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign, self.anchor, self.steps, self.jumps = sign, torch.zeros(2), 0, list[float]()

    def evaluate(self, phase: str) -> Mapping[str, float]:
        return {"eval/headline": self.sign * self.net["a"][0].item()}

    @torch.no_grad()
    def after_step(self, weights: Mapping[str, nn.Parameter], evaluate: Callable[[], float]) -> bool:
        self.steps += 1
        if self.steps & (self.steps - 1):
            return False
        own, before = weights["net.a"].clone(), evaluate()
        weights["net.a"].add_(2 * (own - self.anchor))
        if evaluate() <= before:
            weights["net.a"].copy_(own)
        self.anchor = weights["net.a"].clone()
        self.jumps.append(weights["net.a"][0].item())
        return True


def test_a_hook_sets_the_named_weights_by_what_the_headline_says_of_them() -> None:
    good, bad = Foresight(-1.0), Foresight(1.0)
    for learner in (good, bad):
        learner.order = ("a",)
        trainer(learner).train()
    assert good.jumps == [-3.0, -6.0, -12.0]  # step 1: −1 → −3; step 2: −4 → −6; step 4: −8 → −12
    assert bad.jumps == [-1.0, -2.0, -4.0]
    assert bad.net["a"].tolist() == [-6, -6]


def test_a_hook_of_a_run_without_evaluation_is_refused() -> None:
    class Unmeasured(Foresight):
        def evaluate(self, phase: str) -> None:  # type: ignore[override]
            return None

    with pytest.raises(UserError, match="evaluate the run"):
        trainer(Unmeasured(1.0)).train()


# --- state ------------------------------------------------------------------------------------------------------


class Turns(Slope):
    """Trains only a in the first stage and only b in the second: a must come back all the same."""

    def enter(self, stage: int) -> None:
        self.order = ("ab"[stage],)
        for name, parameter in self.net.items():
            parameter.requires_grad_(name in self.order)


def test_a_resumed_run_has_what_an_earlier_stage_trained(tmp_path: Path) -> None:
    whole = Turns(("a", 2), ("b", 4))
    run_learner(whole, tmp_path / "whole", CPU)
    cut = Turns(("a", 2), ("b", 4))
    with pytest.raises(KeyError):
        run_learner(stopping(cut, 4), tmp_path / "cut", replace(CPU, checkpoint_every=3))
    again = Turns(("a", 2), ("b", 4))
    run_learner(again, tmp_path / "cut", replace(CPU, checkpoint_every=3), resume=True)
    assert again.net["a"].tolist() == whole.net["a"].tolist() == [-2, -2]
    assert again.net["b"].tolist() == whole.net["b"].tolist() == [-8, -8]


def stopping(learner: Slope, at: int) -> Slope:
    """The learner, which raises as its ``at``-th batch begins."""
    collect, count = learner.collect, iter(range(10**6))

    def collected(step: int) -> int:
        if next(count) == at:
            raise KeyError(at)
        return collect(step)

    learner.collect = collected  # type: ignore[method-assign]
    return learner


def test_a_finished_run_that_lost_its_summary_does_not_evaluate_again(tmp_path: Path) -> None:
    run_learner(Slope(), tmp_path / "run", CPU)
    rows = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    summary = (tmp_path / "run" / "summary.json").read_bytes()
    (tmp_path / "run" / "summary.json").unlink()
    run_learner(Slope(), tmp_path / "run", CPU, resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == rows
    assert (tmp_path / "run" / "summary.json").read_bytes() == summary


@pytest.mark.parametrize("change", ["shape", "name", "optimizer", "role"])
def test_resuming_with_another_learner_is_refused_by_name(tmp_path: Path, change: str) -> None:
    class Other(Slope):
        def __init__(self) -> None:
            super().__init__()
            if change == "shape":
                self.net["b"] = nn.Parameter(torch.zeros(3))
            if change == "name":
                self.net["c"] = nn.Parameter(torch.zeros(2))

        def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
            own = dict(super().optimizers(wrapped))
            return {"a": own["a"]} if change == "optimizer" else own

        def roles(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Average]:
            return {} if change == "role" else super().roles(wrapped)

    Other.__name__ = "Slope"
    run_learner(Slope(), tmp_path / "run", CPU)
    told = {"shape": r"net\.b", "name": r"net\.c", "optimizer": "optimizers", "role": "roles"}[change]
    with pytest.raises(UserError, match=told):
        run_learner(Other(), tmp_path / "run", CPU, resume=True)


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    run_learner(Slope(), tmp_path / "run", CPU)
    with pytest.raises(UserError, match=r"settings\.seed"):
        run_learner(Slope(), tmp_path / "run", replace(CPU, seed=1), resume=True)
    run_learner(Slope(), tmp_path / "run", replace(CPU, keep=5), resume=True)


def test_a_learners_numbers_may_be_tensors_and_do_not_rename_the_step(tmp_path: Path) -> None:
    class Careless(Slope):
        def metrics(self, batch: Any, done: Sequence[Numbers]) -> Mapping[str, Any]:
            return {"step": 99, "a": torch.tensor(0.5), "b": torch.tensor(float("nan"))}

        def evaluate(self, phase: str) -> Mapping[str, Any]:
            return {"eval/headline": torch.tensor(0.25), "step": 99}

    run_learner(Careless(), tmp_path / "run", CPU)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert max(row["step"] for row in rows) < 99
    assert {row["a"] for row in rows if "a" in row} == {0.5}
    assert {row["eval/headline"] for row in rows if "eval/headline" in row} == {0.25}


def test_other_stages_are_refused_and_named(tmp_path: Path) -> None:
    run_learner(Slope(), tmp_path / "run", CPU)
    longer = Slope()
    longer.stages = [stage._replace(steps=stage.steps + 5) for stage in longer.stages]
    with pytest.raises(UserError, match=r"stages\.steps"):
        run_learner(longer, tmp_path / "run", CPU, resume=True)


def test_ctrl_c_saves_and_the_run_goes_on_from_there(tmp_path: Path) -> None:
    class Pressed(Slope):
        def collect(self, step: int) -> int:
            if step == 2:
                signal.raise_signal(signal.SIGINT)
            return super().collect(step)

    with pytest.raises(Interrupted, match="run"):
        run_learner(Pressed(), tmp_path / "run", CPU)
    assert checkpoint.latest(tmp_path / "run") == tmp_path / "run" / "checkpoints" / "step-3"
    Slope.__name__ = "Pressed"
    try:
        learner = Slope()
        run_learner(learner, tmp_path / "run", CPU, resume=True)
    finally:
        Slope.__name__ = "Slope"
    assert learner.net["a"].tolist() == [-6, -6]
    steps = [row["step"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6]


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_said_before_the_step_is_over(sent: signal.Signals, tmp_path: Path) -> None:
    heard, within = Heard(), []

    class Pressed(Slope):
        def collect(self, step: int) -> int:
            if step == 2:
                signal.raise_signal(sent)
                while not heard.said:  # another thread says it, within this step
                    time.sleep(0.001)
                within.extend(heard.said)
            return super().collect(step)

    with pytest.raises(Interrupted):
        run_learner(Pressed(), tmp_path / "run", CPU, progress=lambda: heard)
    assert within == heard.said == [TOLD]
    assert checkpoint.latest(tmp_path / "run") == tmp_path / "run" / "checkpoints" / "step-3"


TWICE = """
import os, signal, sys, time
from selfteach.training.interruption import interruption
first, second = (getattr(signal, name) for name in sys.argv[1:])
with interruption(lambda text: print("said", flush=True)) as pressed:
    os.kill(os.getpid(), first)
    while not pressed:
        time.sleep(0.001)
    os.kill(os.getpid(), second)
    while True:
        time.sleep(1)
"""


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(("second", "code"), [("SIGINT", -signal.SIGINT), ("SIGTERM", -signal.SIGTERM)])
def test_a_second_signal_ends_the_process(first: str, second: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", TWICE, first, second], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout.count("said") <= 1


def test_a_step_killed_by_a_second_signal_is_made_again(tmp_path: Path) -> None:
    class Twice(Slope):
        def collect(self, step: int) -> int:
            if step == 4 and not (tmp_path / "was").exists():
                (tmp_path / "was").touch()
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGINT)
            return super().collect(step)

    saving = replace(CPU, checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        run_learner(Twice(), tmp_path / "run", saving)
    run_learner(Twice(), tmp_path / "run", saving, resume=True)
    run_learner(Slope(), tmp_path / "other", saving)
    ours, theirs = (read_rows(tmp_path / one / "metrics.jsonl") for one in ("run", "other"))
    assert [row.get("loss") for row in ours] == [row.get("loss") for row in theirs]


# --- the parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_every_schedule_warms_up_and_then_takes_its_course(schedule: str, warmup: int) -> None:
    steps = 12
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.5)
    scheduler = scheduled(optimizer, schedule, warmup, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    left = torch.arange(steps - warmup, dtype=torch.float64) / (steps - warmup)
    course = {
        "constant": torch.ones_like(left),
        "linear": 1 - left,
        "cosine": (1 + torch.cos(torch.pi * left)) / 2,
    }
    expected = [0.5 * i / 4 for i in range(warmup)] + (0.5 * course[schedule]).tolist()
    assert rates == pytest.approx(expected)


def test_a_phase_within_a_phase_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 102.0, 107.0, 111.0])  # outer begins, inner begins, inner ends, outer ends
    monkeypatch.setattr("selfteach.training.clock.time", SimpleNamespace(perf_counter=lambda: next(now)))
    clock = Clock()
    with clock("outer"), clock("inner"):
        pass
    assert clock.seconds == {"inner": 5.0, "outer": 6.0}
    assert clock.total == 11.0
    clock.restart()
    assert clock.total == 0


# --- several processes ------------------------------------------------------------------------------------------


def shared(out: Path, processes: int, *more: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    script = str(Path(__file__).with_name("shared_learner.py"))
    return subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), script, str(out), *more],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_with_unequal_shares_compute_what_one_does(tmp_path: Path) -> None:
    for number, name in ((1, "one"), (2, "two")):
        done = shared(tmp_path / name, number)
        assert done.returncode == 0, done.stderr[-3000:]
    rows = [read_rows(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    for one, two in zip(*rows, strict=True):
        same = {k: v for k, v in one.items() if not k.startswith(("seconds/", "memory/"))}
        assert {k: two[k] for k in same} == pytest.approx(same, rel=1e-5)
    states = [checkpoint.load(checkpoint.latest(tmp_path / name)) for name in ("one", "two")]  # type: ignore[arg-type]
    for name, tensor in states[0]["weights"]["net"].items():
        torch.testing.assert_close(states[1]["weights"]["net"][name], tensor)
    assert states[0]["weights"]["net"].keys() >= {"first.weight", "none.weight"}
    assert [len(state["random"]) for state in states] == [1, 2]
    assert rows[0][-1]["spent/rows"] == 35
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-5")
    (tmp_path / "two" / "summary.json").unlink()
    shutil.copytree(tmp_path / "two", tmp_path / "fewer")
    # Nothing is stored by process, so that one may go on where two were: as they would but for rounding.
    assert shared(tmp_path / "fewer", 1, "--resume").returncode == 0
    fewer = checkpoint.load(checkpoint.latest(tmp_path / "fewer"))  # type: ignore[arg-type]
    for name, tensor in states[1]["weights"]["net"].items():
        torch.testing.assert_close(fewer["weights"]["net"][name], tensor)
    assert shared(tmp_path / "two", 2, "--resume").returncode == 0
    last = checkpoint.load(checkpoint.latest(tmp_path / "two"))  # type: ignore[arg-type]
    for name, tensor in states[1]["weights"]["net"].items():
        assert torch.equal(last["weights"]["net"][name], tensor)


@pytest.mark.slow
def test_the_noise_of_single_records_gradients_is_added_once_over_all_processes(tmp_path: Path) -> None:
    for number, name in ((1, "one"), (2, "two")):
        done = shared(tmp_path / name, number, "--private")
        assert done.returncode == 0, done.stderr[-3000:]
    states = [checkpoint.load(checkpoint.latest(tmp_path / name)) for name in ("one", "two")]  # type: ignore[arg-type]
    for name, tensor in states[0]["weights"]["net"].items():
        torch.testing.assert_close(states[1]["weights"]["net"][name], tensor)
    rows = [read_rows(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    for one, two in zip(*rows, strict=True):
        same = {key: one[key] for key in ("loss", "clipped", "grad_norm") if key in one}
        assert {key: two[key] for key in same} == pytest.approx(same, rel=1e-5)
    empty = next(row for row in rows[0] if row["step"] == 2 and "loss" in row)
    assert empty["loss"] == 0 < empty["grad_norm"]  # nothing but noise


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has computed on a GPU, as far as accelerate knows."""
    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})
    Accelerator(cpu=True)
    for state in (PartialState, AcceleratorState):
        state._shared_state |= {"device": torch.device("cuda"), "_cpu": False}


def test_a_run_computes_on_its_own_device_whatever_the_process_computed_on_before(
    elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a notebook: accelerate keeps a process's first device, and refuses another one."""
    monkeypatch.setattr(reduce, "_ours", True)
    assert Trainer(Slope(), None, Silent(), CPU).accelerator.device.type == "cpu"


def test_somebodys_own_accelerator_is_not_taken_away(
    elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduce, "_ours", False)
    with pytest.raises(UserError, match="computes on cuda already"):
        Trainer(Slope(), None, Silent(), CPU)
    assert PartialState._shared_state["device"].type == "cuda"


def test_accelerates_own_word_for_the_cpu_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert not reduce.on_cpu("auto")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert reduce.on_cpu("auto")
