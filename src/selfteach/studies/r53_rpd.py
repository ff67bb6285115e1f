"""RPD: a point that is to reach a goal behind a disc, taught by an expert that was made mediocre."""

from __future__ import annotations

from selfteach.studies.laptop import Laptop

LAPTOP = Laptop(
    knobs={
        "environment": "point-reach-dense",
        "gamma": 0.99,
        "teacher_bias": 0.5,
        "num_envs": 64,
        "epochs": 4,
        "batch_size": 800,
        "width": 64,
        "depth": 2,
        "steps": 100,
        "lr": 2e-3,
    }
)
