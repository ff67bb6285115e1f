"""What an accelerator must do as the CPU does. Run with ``pytest -m gpu`` on a machine that has one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from off_policy import OffPolicy, of_kind
from runs import TextRun, run_of, scoring, with_task
from selfteach.objective.batch import Scored, ScoredBatch
from selfteach.objective.columns import Columns
from selfteach.objective.engine import evaluate_terms
from selfteach.objective.head import Head
from selfteach.objective.layout import Layout
from selfteach.objective.plan import plan
from selfteach.policy.economy import Economy
from selfteach.roles.copies import ModuleCopy
from selfteach.training.text.preflight import examined
from test_economy import BOTH, PLAIN, SHARED, policy_of, random_model, scored, uneven
from test_engine import TERMS, batch, gradients
from test_offload import adapters
from test_shared_base import Tagged
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


def run_in(folder: Path, *words: str) -> TextRun:
    """A run on the accelerator, unless the words say otherwise."""
    return run_of(str(tiny_model_folder(folder)), "--prompts", "8", *words, device="auto")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--lora-rank", "4"),
        ("--weights", "ema"),
        ("--precision", "bfloat16"),
        ("--precision", "mixed", "--micro-batch", "3"),
        ("--gradient-checkpointing",),
        ("--teacher-dtype", "bfloat16"),
        ("--teacher-dtype", "bfloat16", "--lora-rank", "4"),
        ("--offload-teachers", "cpu"),
        ("--offload-teachers", "disk", "--weights", "ema"),
        ("--optim", "adafactor"),
        ("--optim", "adamw_torch"),
    ],
    ids=" ".join,
)
def test_a_run_passes_its_preflight_and_takes_steps(tmp_path: Path, words: tuple[str, ...]) -> None:
    run = run_in(tmp_path / "model", *words)
    assert run.learner.policy.model.device.type == "cuda"
    assert [check.name for check in examined(run.learner) if not check.ok] == []
    for _ in range(2):
        assert run.stepped()["grad_norm"] > 0


@pytest.mark.parametrize("to", ["cpu", "disk"])
@pytest.mark.parametrize("weights", ["frozen", "ema"])
def test_a_teacher_that_waits_elsewhere_teaches_the_same_and_goes_back(
    tmp_path: Path, weights: str, to: str
) -> None:
    words = ("--lora-rank", "0", "--weights", weights, "--lr", "1e-3")
    stays = run_in(tmp_path / "model", *words)
    waits = run_in(tmp_path / "model", *words, "--offload-teachers", to)
    for _ in range(3):  # an average has moved twice by the third
        assert stays.stepped()["loss"] == waits.stepped()["loss"]
    (held,) = waits.learner.models.weights.followed.values()
    (copy,) = held.copies
    assert isinstance(copy, ModuleCopy)
    assert {one.device.type for one in copy.policy.model.parameters()} == {"cpu"}
    with scoring(waits) as policy:
        assert policy.model.device.type == "cuda"


@pytest.mark.parametrize("rank", ["0", "4"])
@pytest.mark.parametrize("to", ["cpu", "disk"])
def test_adapters_by_tag_teach_the_same_wherever_their_base_waits(tmp_path: Path, rank: str, to: str) -> None:
    """Of an adapter in training (rank 4) it is the student's own base, which stays on the device."""
    model = str(tiny_model_folder(tmp_path / "model"))
    teachers = adapters(model, tmp_path)
    runs = [
        with_task(made, Tagged(made.learner.task))
        for more in ((), ("--offload-teachers", to))
        for made in [
            run_of(model, "--teacher", teachers, "--lora-rank", rank, *more, recipe="uni-opd", device="auto")
        ]
    ]
    for _ in range(2):
        assert runs[0].stepped()["loss"] == runs[1].stepped()["loss"]
    assert {one.device.type for one in runs[1].learner.policy.model.parameters()} == {"cuda"}


def test_a_step_on_the_device_is_the_step_of_the_cpu(tmp_path: Path) -> None:
    words = ["--task", "table", "--model", str(tiny_model_folder(tmp_path / "model")), "--prompts", "8"]
    words += ["--max-tokens", "40", "--lr", "1e-4", "--eval-problems", "0", "--samples-every", "0"]
    runs = [TextRun(of_kind(OffPolicy, [*words, "--device", device])) for device in ("auto", "cpu")]
    rows = [run.stepped() for run in runs]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-4)
    weights = [run.learner.policy.trainable() for run in runs]
    for name, parameter in weights[1].items():
        torch.testing.assert_close(weights[0][name].cpu(), parameter, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gemma3", "mistral", "mixtral"])
def test_shared_contexts_give_the_states_and_gradients_of_one_padded_pass(name: str) -> None:
    """Rows of padding see nothing at all in their attention: neither they nor what is behind them may be NaN."""
    policy = policy_of(random_model(name).float().cuda())
    states, gradient = scored(policy, PLAIN, uneven())
    found, its_gradient = scored(policy, SHARED, uneven())
    assert (found - states).norm() < 1e-4 * states.norm()
    assert (its_gradient - gradient).norm() < 1e-4 * gradient.norm()
    half, its_half = scored(replace(policy, precision="mixed"), SHARED, uneven())
    # A router in bfloat16 sends a few tokens to other experts.
    assert (half - states).norm() < (0.2 if name == "mixtral" else 0.1) * states.norm()
    assert its_half.isfinite().all()


@pytest.mark.parametrize("economy", [BOTH, PLAIN], ids=["packed and shared", "padded"])
def test_flash_attention_scores_as_sdpa_does(economy: Economy) -> None:
    pytest.importorskip("flash_attn")
    policy = policy_of(random_model("mistral").to("cuda", torch.bfloat16))
    states, _ = scored(policy, PLAIN, uneven())
    policy.model.set_attn_implementation("flash_attention_2")
    found, gradient = scored(policy, economy, uneven())
    assert (found - states).float().norm() < 0.1 * states.float().norm()
    assert gradient.isfinite().all()
