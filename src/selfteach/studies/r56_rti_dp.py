"""RTI-DP: a point that passes a disc on either side."""

from __future__ import annotations

from selfteach.studies.laptop import Laptop

LAPTOP = Laptop(
    knobs={
        "environment": "point-reach-two-ways",
        "width": 128,
        "depth": 3,
        "lr": 4e-3,
        "warmup": 100,
        "steps": 4000,
        "batch_size": 128,
        "eval_episodes": 100,
        "ema_decay": 0.995,
    }
)
