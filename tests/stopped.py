"""A network learner's run that is stopped in the middle and goes on, held against one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from saved import everything
from selfteach.recipes import NetworkRecipe
from selfteach.training.network_learner import NetworkLearner
from selfteach.training.running import run_learner
from selfteach.training.trainer import Settings

EACH = Settings(eval_every=2, samples_every=3, checkpoint_every=2, device="cpu", seed=3)


def goes_on_bit_for_bit(
    kind: type[NetworkLearner[Any]], recipe: NetworkRecipe, folder: Path, batches: int, total: int
) -> dict[str, torch.Tensor]:
    """Stop a run while it collects the batch behind ``batches`` of ``total``, go on from its last checkpoint, and
    compare all that both left. Returns what the last checkpoint holds."""

    class Stopped(kind):
        collected = 0

        def collect(self, step: int) -> Any:
            self.collected += 1
            if self.collected > batches:
                raise KeyboardInterrupt
            return super().collect(step)

    Stopped.__name__ = kind.__name__
    run_learner(kind(recipe, EACH), folder / "whole", EACH)
    with pytest.raises(KeyboardInterrupt):
        run_learner(Stopped(recipe, EACH), folder / "stopped", EACH)
    assert not (folder / "stopped" / "summary.json").exists()
    run_learner(kind(recipe, EACH), folder / "stopped", EACH, resume=True)
    (saved, rows, samples), (weights, metrics, shown) = (
        everything(folder / one, total) for one in ("stopped", "whole")
    )
    assert rows == metrics
    assert samples == shown
    assert saved.keys() == weights.keys()
    for place, value in saved.items():
        assert torch.equal(value, weights[place]), place
    return saved
