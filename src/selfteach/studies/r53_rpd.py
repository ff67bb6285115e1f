"""RPD: a point that is to reach a goal behind a disc, taught by an expert with a constant error."""

from __future__ import annotations

from selfteach.studies.laptop import Laptop
from selfteach.studies.study import AREA, HEADLINE, Claim, Study, Works

LAPTOP = Laptop(
    knobs={
        "environment": "point-reach-dense",
        "teacher_bias": 0.5,
        "gamma": 0.99,
        "num_envs": 64,
        "epochs": 4,
        "batch_size": 800,
        "width": 64,
        "depth": 2,
        "steps": 100,
        "lr": 2e-3,
    }
)
"""The expert with this error is stopped by the disc in two episodes of five."""

RPD = "rpd --environment point-reach-dense --teacher-bias 0.5"
CURVE = f"{RPD} --eval-every 10"
TEACHER = "first eval/teacher"

STUDY = Study(
    method="rpd",
    claims=(
        Claim(
            says="It reaches success in fewer steps than PPO (on most ManiSkill3 tasks; here the area under the curve)",
            variants={"rpd": CURVE, "ppo": f"{CURVE} --distill-weight 0"},
            higher="rpd",
            lower="ppo",
            metric=AREA,
            tuned_by=AREA,
            works={"ppo": Works(), "rpd": Works()},
        ),
        Claim(
            says="It ends above its mediocre teacher, at whose level distillation alone stops",
            variants={"rpd": RPD, "distillation": f"{RPD} --no-ppo"},
            higher="rpd",
            lower="distillation",
            works={
                "rpd": Works(HEADLINE, TEACHER),
                "distillation": Works(TEACHER, HEADLINE, -0.1),
            },
        ),
        Claim(
            says="A weight that falls to 0 leaves nothing of the teacher's error (ours; the authors' schedule is "
            "commented out)",
            variants={"annealed": f"{RPD} --anneal-steps 50", "constant": RPD},
            higher="annealed",
            lower="constant",
        ),
    ),
)
