"""DiffusionOPD: four tasks in the plane, each two opposite modes of one ring."""

from __future__ import annotations

from selfteach.studies.laptop import Laptop
from selfteach.studies.study import Claim, Study
from selfteach.studies.verdict import Exceeds

LAPTOP = Laptop(
    knobs={
        "pretrain_steps": 400,
        "specialist_steps": 200,
        "steps": 100,
        "batch_size": 32,
        "lr": 1e-3,
        "guidance": 1.0,
        "teacher_guidance": (1.0,),
    }
)

OPD = "diffusionopd --preset laptop --data opposite"
CASCADE, OFF = f"{OPD} --order cascade", f"{OPD} --states teacher"
SDE = f"{OPD} --sampler sde"
PG = f"{SDE} --estimator score-function"

STUDY = Study(
    method="diffusionopd",
    claims=(
        Claim(
            says="All teachers at once beat one after the other: normalized mean 0.929, and cascades forget the first",
            variants={"cascade": CASCADE, "round-robin": OPD},
            higher="cascade",
            lower="round-robin",
            rule=Exceeds(0.0),
            better="lower",
            may_fail=("cascade",),
            looked="The cascade chose the lower end of its grid; with 1e-4 it ends at 0.59 on one seed, the base that "
            "nothing moves is at 0.47.",
        ),
        Claim(
            says="The student's own states beat the teachers' (the paper's fine-tuning on teachers' samples)",
            variants={"teacher": OFF, "student": OPD},
            higher="teacher",
            lower="student",
            rule=Exceeds(0.0),
            better="lower",
            looked="By 0.003, of a base at 0.47: here a student that begins as the specialists' base goes where they "
            "go, and has no states of its own to be put right in.",
        ),
        Claim(
            says="The divergence in closed form beats its score-function gradient, of equal mean and more variance",
            variants={"score-function": PG, "closed-form": SDE},
            higher="score-function",
            lower="closed-form",
            rule=Exceeds(0.0),
            better="lower",
            may_fail=("score-function",),
        ),
    ),
)
