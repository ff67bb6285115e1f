"""Runs of diffusion that are cut in the middle of a stage and go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import selfteach
from selfteach.training import checkpoint
from selfteach.training.diffusion.learner import DiffusionLearner
from selfteach.training.resuming import tensors_of

QUIET = {"samples_every": 0, "device": "cpu", "progress": None}
SMALL = {
    "width": 8, "depth": 1, "pretrain_steps": 3, "pretrain_batch_size": 16, "sampling_steps": 4, "step_counts": (1,),
    "eval_samples": 20,
}  # fmt: skip


def saved(out: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint, by its place."""
    path = checkpoint.latest(out)
    assert path is not None
    return tensors_of(checkpoint.load(path))


def cut_and_whole(
    monkeypatch: pytest.MonkeyPatch,
    kind: type[DiffusionLearner[Any]],
    tmp_path: Path,
    stage: str,
    **knobs: Any,
) -> None:
    """A run that is killed before the second batch of ``stage`` and goes on ends as one that was not, bit for bit."""
    name = knobs.pop("recipe")
    given = {**SMALL, **QUIET, "checkpoint_every": 1, **knobs}
    selfteach.train(name, out=tmp_path / "whole", **given)
    collect = kind.collect

    def killed(self: Any, step: int) -> Any:
        if self.stage == stage and step == 1:
            raise KeyboardInterrupt
        return collect(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "collect", killed)
        with pytest.raises(KeyboardInterrupt):
            selfteach.train(name, out=tmp_path / "cut", **given)
    assert not (tmp_path / "cut" / "summary.json").exists()
    selfteach.train(resume=True, out=tmp_path / "cut", progress=None)
    ours, theirs = saved(tmp_path / "cut"), saved(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    for place, value in ours.items():
        assert torch.equal(value, theirs[place]), place
