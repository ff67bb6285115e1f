"""PU-RL: how good a judge must be, and whether soft labels bear a bad one."""

from __future__ import annotations

from selfteach.studies.grpo import ROWS
from selfteach.studies.laptop import PLAIN, SHORT, SLOW, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **PLAIN, "anchor": "worked", "judge": "verifier", "imitate_steps": 20, "imitate_lr": 3e-4,
        "lr": 3e-4, "per_prompt": 8, "steps": 150, "prompts": 8,
    },
)  # fmt: skip

JUDGED = f"pu-rl --task tutor --judge verifier {SLOW} {ROWS} --imitate-steps 1"

STUDY = Study(
    method="pu-rl",
    model=UNSURE,
    claims=(
        Claim(
            says="Judged answers add to imitation, if the judge is better than chance",
            variants={"good": JUDGED, "chance": f"{JUDGED} --judge-errors 0.5"},
            higher="good",
            lower="chance",
            metric=AREA,
            tuned_by=AREA,
            may_fail=("chance",),
        ),
        Claim(
            says="Soft labels bear a bad judge better than the best taking all",
            variants={
                "soft": f"{JUDGED} --judge-errors 0.3 --label-temperature 1",
                "best": f"{JUDGED} --judge-errors 0.3 --label-temperature 0.01",
            },
            higher="soft",
            lower="best",
            metric=AREA,
            tuned_by=AREA,
            withdrawn="the verifier says right or wrong: of two scores every temperature gives the same advantage",
        ),
    ),
)
