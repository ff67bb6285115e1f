"""Runs of recipes without tokens that are stopped in the middle, and must go on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import selfteach
from saved import everything

QUIET: dict[str, Any] = {"device": "cpu", "progress": None}


def require_goes_on(
    learner: type, name: str, folder: Path, patch: pytest.MonkeyPatch, *, total: int, at: int, **knobs: Any
) -> dict[str, torch.Tensor]:
    """A run of ``total`` batches, in all its stages together, that breaks as batch ``at`` begins, behind checkpoints at
    every second one, ends as one that does not break: weights, optimizers, roles, metrics and samples. Gives what was
    saved at the end, by place."""
    given = {**QUIET, "checkpoint_every": 2, "samples_every": 3, "eval_every": 2, **knobs}
    selfteach.train(name, out=folder / "whole", **given)
    collect, count = learner.collect, iter(range(10**6))  # type: ignore[attr-defined]

    def broken(self: Any, step: int) -> Any:
        if next(count) == at:
            raise KeyError(at)
        return collect(self, step)

    with patch.context() as during:
        during.setattr(learner, "collect", broken)
        with pytest.raises(KeyError):
            selfteach.train(name, out=folder / "cut", **given)
    selfteach.train(resume=True, out=folder / "cut", progress=None)
    (weights, *rest), (others, *same) = (everything(folder / run, total) for run in ("whole", "cut"))
    assert rest == same
    assert weights.keys() == others.keys()
    for place, one in weights.items():
        torch.testing.assert_close(one, others[place], rtol=0, atol=0, equal_nan=True, msg=place)
    return weights
