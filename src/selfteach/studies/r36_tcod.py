"""TCOD: episodes that grow deeper as training goes on."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, EPISODES, SHORT, Laptop
from selfteach.studies.study import AREA, Claim, Study

SAMPLED = {**ADAM, "lr": 3e-4, "steps": 60}
LAPTOP = Laptop(
    "doors",
    {**EPISODES, **SAMPLED, "teacher": "arena:doors-expert", "prompts": 32},
    {"tutor": {**SHORT, **ADAM, "teacher": "arena:tutor-large", "steps": 150, "prompts": 64}},
)

TCOD = "tcod --task doors --eval-every 5 --eval-samples 1"

STUDY = Study(
    method="tcod",
    claims=(
        Claim(
            says="Episodes cut behind their first turns beat whole ones: 81.43 against 65.72 (Qwen2.5-3B, ALFWorld "
            "seen; an independent reproduction found 87.14 against 82.14)",
            variants={"f2b": TCOD, "opd": f"{TCOD} --curriculum none"},
            higher="f2b",
            lower="opd",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="Episodes begun behind an expert's turns beat whole ones: 77.86 against 65.72 (the same)",
            variants={"b2f": f"{TCOD} --curriculum b2f", "opd": f"{TCOD} --curriculum none"},
            higher="b2f",
            lower="opd",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="Whole episodes collapse where cut ones do not: success 0.17 against 18.2 to 18.8 at the end "
            "(Qwen3-1.7B, a teacher of 30B, average of three environments)",
            variants={"f2b": TCOD, "opd": f"{TCOD} --curriculum none"},
            higher="f2b",
            lower="opd",
            tuned_by=AREA,
            may_fail=("opd",),
        ),
    ),
)
