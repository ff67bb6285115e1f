"""What an accelerator must do as the CPU does. Run with ``pytest -m gpu`` on a machine that has one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from selfteach.train.preflight import examined
from selfteach.train.run import Run
from torch import Tensor

from selfteach.cli.progress import Silent
from selfteach.cli.train import configured
from selfteach.objective.batch import Scored, ScoredBatch
from selfteach.objective.columns import Columns
from selfteach.objective.engine import evaluate_terms
from selfteach.objective.head import Head
from selfteach.objective.layout import Layout
from selfteach.objective.plan import plan
from test_engine import TERMS, batch, gradients
from tiny import tiny_model_folder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here"),
]


def on_device(given: ScoredBatch, device: str) -> ScoredBatch:
    def moved(tensor: Tensor) -> Tensor:
        return tensor.detach().to(device).requires_grad_(tensor.requires_grad)

    def scored(one: Scored) -> Scored:
        assert one.head.weight is not None
        return Scored(moved(one.states), Head(moved(one.head.weight)))

    c = given.columns
    assert c.group is not None
    assert c.reward is not None
    assert c.behavior is not None
    columns = Columns(*(x.to(device) for x in (c.ids, c.mask, c.group, c.reward, c.behavior)))
    layout = Layout(given.layout.row.to(device), given.layout.step.to(device))
    return ScoredBatch(columns, {name: scored(one) for name, one in given.roles.items()}, layout)


@pytest.mark.parametrize("name", ["match", "clipped", "sampled", "k3"])
def test_the_engine_gives_on_the_device_what_it_gives_on_the_cpu(name: str) -> None:
    here, there = on_device(batch(), "cpu"), on_device(batch(), "cuda")
    losses = [evaluate_terms(x, plan([TERMS[name]], x.columns)).loss for x in (here, there)]
    torch.testing.assert_close(losses[1].cpu(), losses[0])
    for a, b in zip(gradients(losses[0], here), gradients(losses[1], there), strict=True):
        torch.testing.assert_close(b.cpu(), a)


def run_of(folder: Path, *words: str) -> Run:
    model = tiny_model_folder(folder)
    common = ["--task", "table", "--model", str(model), "--steps", "2", "--prompts", "8", "--max-tokens", "8"]
    config, _ = configured(["opsd", *common, "--eval-problems", "0", *words])
    return Run(config, None, Silent())


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--lora-rank", "4"),
        ("--weights", "ema"),
        ("--precision", "bfloat16"),
        ("--precision", "mixed", "--micro-batch", "3"),
        ("--gradient-checkpointing",),
    ],
    ids=" ".join,
)
def test_a_run_passes_its_preflight_and_takes_steps(tmp_path: Path, words: tuple[str, ...]) -> None:
    run = run_of(tmp_path / "model", *words)
    assert run.policy.model.device.type == "cuda"
    assert [check.name for check in examined(run) if not check.ok] == []
    for _ in range(2):
        assert run.step().row["grad_norm"] > 0


def test_a_step_on_the_device_is_the_step_of_the_cpu(tmp_path: Path) -> None:
    words = ("--source", "reference", "--reference", "worked", "--max-tokens", "40", "--lr", "1e-4")
    runs = [run_of(tmp_path / name, *words, *more) for name, more in (("a", ()), ("b", ("--device", "cpu")))]
    rows = [run.step().row for run in runs]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-4)
    weights = [run.policy.trainable() for run in runs]
    for name, parameter in weights[1].items():
        torch.testing.assert_close(weights[0][name].cpu(), parameter, rtol=1e-3, atol=2e-5)
