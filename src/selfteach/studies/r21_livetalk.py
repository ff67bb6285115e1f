"""LiveTalk: walks of eight points around a circle, whose speed is the condition, in blocks of two."""

from __future__ import annotations

from selfteach.studies.laptop import Laptop

LAPTOP = Laptop(
    knobs={
        "frames": 8,
        "block_frames": 2,
        "guidance": 1.5,
        "timestep_shift": 2.0,
        "pretrain_steps": 1000,
        "ode_pairs": 4000,
        "ode_steps": 1000,
        "ode_lr": 3e-3,
        "steps": 400,
        "batch_size": 128,
        "schedule": "cosine",
        "lr": 5e-5,
        "fake_lr": 1e-3,
        "ema_from": 50,
    }
)
