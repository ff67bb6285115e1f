"""The optimizers that weights may move by: their first step in closed form, their state, and a run that goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from runs import TextRun, run_of, weights
from selfteach.cli.train import configured
from selfteach.errors import UserError
from selfteach.recipes.parts import Optim
from selfteach.training import checkpoint, resuming
from selfteach.training.optimizers import optimizer_of, state_bytes

LR, DECAY = 0.1, 0.25
HERE: tuple[Optim, ...] = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd")
"""Those that a CPU has."""


def adamw(p: Tensor, g: Tensor) -> Tensor:
    """m̂ = g and v̂ = g² at the first step."""
    return p * (1 - LR * DECAY) - LR * g / (g.abs() + 1e-8)


def adafactor(p: Tensor, g: Tensor) -> Tensor:
    """Shazeer & Stern, algorithm 4: V̂ = R C / mean(R) at the first step, where 1 − β̂₂ is 1."""
    eps = torch.finfo(p.dtype).eps
    rows, columns = g.square().mean(-1, keepdim=True), g.square().mean(-2, keepdim=True)
    update = g / (rows * columns / rows.mean()).clamp(min=eps**2).sqrt()
    update = update / max(1.0, float(update.square().mean().sqrt()))
    size = max(1e-3, float(p.square().mean().sqrt()))
    return p * (1 - LR * DECAY) - size * LR * update


def sgd(p: Tensor, g: Tensor) -> Tensor:
    return p * (1 - LR * DECAY) - LR * g


@pytest.mark.parametrize(
    ("optim", "step"),
    [("adamw_torch", adamw), ("adamw_torch_fused", adamw), ("adafactor", adafactor), ("sgd", sgd)],
)
def test_the_first_step_is_that_of_the_formula(
    optim: Optim, step: Callable[[Tensor, Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    start, gradient = (torch.randn(5, 3, dtype=torch.float64) for _ in range(2))
    p = nn.Parameter(start.clone())
    p.grad = gradient.clone()
    optimizer_of(optim, [p], lr=LR, weight_decay=DECAY).step()
    torch.testing.assert_close(p.detach(), step(start, gradient), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("optim", HERE)
def test_the_state_takes_the_bytes_that_are_reckoned_with(optim: Optim) -> None:
    shapes = ((300, 40), (40,), (4, 30, 20))
    parameters = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer = optimizer_of(optim, parameters, lr=LR)
    optimizer.step()
    held = [
        value
        for state in optimizer.state.values()
        for key, value in state.items()
        if isinstance(value, Tensor) and key != "step"
    ]
    assert sum(value.nbytes for value in held) == state_bytes(optim, parameters)


def test_eight_bits_take_a_quarter_of_large_tensors_alone() -> None:
    large, small = nn.Parameter(torch.ones(1024, 1024)), nn.Parameter(torch.ones(64))
    assert state_bytes("adamw_8bit", [small]) == state_bytes("adamw_torch", [small])
    assert state_bytes("adamw_8bit", [large]) == pytest.approx(2 * 2**20, rel=0.02)
    assert state_bytes("adamw_torch", [large]) == 8 * 2**20


# --- in a run ---------------------------------------------------------------------------------------------------


def run_with(optim: str, tiny: str, out: Path) -> TextRun:
    words = [
        "opsd",
        "--task",
        "table",
        "--model",
        tiny,
        "--device",
        "cpu",
        "--steps",
        "4",
        "--max-tokens",
        "8",
    ]
    quiet = ["--eval-problems", "0", "--samples-every", "0", "--prompts", "3", "--out", str(out)]
    moving = [
        "--optim",
        optim,
        "--schedule",
        "linear",
        "--warmup",
        "1",
        "--lr",
        "1e-2",
        "--weight-decay",
        "0.1",
    ]
    return TextRun(configured([*words, *quiet, *moving])[0])


@pytest.mark.parametrize("optim", HERE)
def test_a_run_goes_on_as_if_it_had_not_been_interrupted(optim: str, tiny: str, tmp_path: Path) -> None:
    whole = run_with(optim, tiny, tmp_path)
    before = weights(whole)
    for _ in range(2):
        whole.stepped()
    path = checkpoint.save(tmp_path, 2, resuming.state(whole))
    for _ in range(2):
        whole.stepped()
    again = run_with(optim, tiny, tmp_path)
    resuming.load_state(again, checkpoint.load(path))
    for _ in range(2):
        again.stepped()
    moved = weights(whole)
    assert all(not torch.equal(moved[name], before[name]) for name in moved)
    for name, value in weights(again).items():
        assert torch.equal(value, moved[name]), name


def test_a_checkpoint_of_another_optimizer_is_refused(tiny: str, tmp_path: Path) -> None:
    run = run_with("adafactor", tiny, tmp_path)
    for _ in range(2):
        run.stepped()
    path = checkpoint.save(tmp_path, 2, resuming.state(run))
    saved = checkpoint.load(path)
    moments = saved["optimizers"]["policy"]["optimizer"]["parameters"]
    name = next(one for one, state in moments.items() if "row_var" in state)
    moments[name]["row_var"] = moments[name]["row_var"][:-1]
    with pytest.raises(UserError, match=r"row_var of .* is of shape"):
        resuming.load_state(run_with("adafactor", tiny, tmp_path), saved)


def test_a_wrong_name_is_refused_in_one_line(tiny: str) -> None:
    with pytest.raises(UserError, match="optim"):
        run_of(tiny, "--optim", "adamw")


def test_eight_bits_on_a_cpu_are_refused_with_what_to_do(tiny: str) -> None:
    with pytest.raises(UserError, match=r"on the CPU.*--optim adafactor"):
        run_of(tiny, "--optim", "adamw_8bit")


def test_eight_bits_without_their_package_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    elsewhere = SimpleNamespace(device=torch.device("cuda"))
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        optimizer_of("adamw_8bit", [elsewhere], lr=LR)  # type: ignore[list-item]
