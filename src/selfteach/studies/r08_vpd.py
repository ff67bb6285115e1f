"""VPD: the teacher that reads the feedback is trained too."""

from __future__ import annotations

from selfteach.studies.grpo import ADAMS, REINFORCED, ROWS
from selfteach.studies.laptop import ADAM, MUTE, SHORT, SLOW, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

KNOBS = {"lr": 5e-4, "per_prompt": 8, "prompts": 8, "mean_over": "tokens"}
LAPTOP = Laptop("tutor", {**SHORT, **ADAM, **MUTE, **KNOBS, "steps": 150})

VPD = f"vpd --task tutor {SLOW} {ROWS} {ADAMS}"
GRPO = f"{REINFORCED} --mean-over tokens"

STUDY = Study(
    method="vpd",
    model=UNSURE,
    claims=(
        Claim(
            says="A teacher that is trained too takes the student further than the same one untrained: 49.6 against "
            "47.3 of SDPO (Qwen3-8B, LiveCodeBench v6)",
            variants={"vpd": VPD, "no E-steps": f"{VPD} --expectation-every none"},
            higher="vpd",
            lower="no E-steps",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="and further than reinforcement alone: 49.6 against 45.6 (the same)",
            variants={"vpd": VPD, "grpo": GRPO},
            higher="vpd",
            lower="grpo",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="The present student as prior beats the initial one: 74.3 against 67.8 (Qwen3-1.7B, SciKnowEval)",
            variants={"present": VPD, "initial": f"{VPD} --prior initial"},
            higher="present",
            lower="initial",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="An E-step every 5 batches does better than one every 10, whose teacher is stale",
            variants={"5": VPD, "10": f"{VPD} --expectation-every 10"},
            higher="5",
            lower="10",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
