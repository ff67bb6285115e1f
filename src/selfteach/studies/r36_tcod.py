"""TCOD: episodes that grow deeper as training goes on."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, SHORT, SLOW, SOME, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor", {**SHORT, **ADAM, "teacher": "arena:tutor-large", "steps": 150, "prompts": 64}
)  # fmt: skip

TCOD = f"tcod --task tutor {SLOW} {SOME}"
ONE_TURN = "Answers of one turn have no depth to cut. It asks for an environment of several turns"

STUDY = Study(
    method="tcod",
    model=UNSURE,
    claims=(
        Claim(
            says="Episodes cut behind their first turns beat whole ones: 81.43 against 65.72 (Qwen2.5-3B, ALFWorld "
            "seen; an independent reproduction found 87.14 against 82.14)",
            variants={"f2b": TCOD, "opd": f"{TCOD} --curriculum none"},
            higher="f2b",
            lower="opd",
            metric=AREA,
            tuned_by=AREA,
            withdrawn=ONE_TURN,
        ),
        Claim(
            says="Episodes begun behind an expert's turns beat whole ones: 77.86 against 65.72 (the same)",
            variants={"b2f": f"{TCOD} --curriculum b2f", "opd": f"{TCOD} --curriculum none"},
            higher="b2f",
            lower="opd",
            metric=AREA,
            tuned_by=AREA,
            withdrawn=ONE_TURN,
        ),
    ),
)
