"""CaOPD: in world ``ambiguous`` nobody can know some answers, and the student should say so."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, SHORT, Laptop
from selfteach.studies.study import Claim, Study, Works

LAPTOP = Laptop("ambiguous", {**SHORT, **PLAIN, "lr": 3e-4, "per_prompt": 8, "steps": 150, "prompts": 8})

CAOPD = "caopd --task ambiguous --steps 100"
BETTER = Works("first eval/brier", "eval/brier")
"""A side's job: its Brier score falls. None is tuned: accuracy would choose the rate at which most is claimed."""

STUDY = Study(
    method="caopd",
    claims=(
        Claim(
            says="Confidences agree better with what is right than after plain self-distillation: Brier 0.242 against "
            "0.320, ECE 0.228 against 0.321 (Qwen3-8B, tool use)",
            variants={"caopd": CAOPD, "sdft": f"{CAOPD} --rewrite none"},
            higher="sdft",
            lower="caopd",
            metric="eval/brier",
            sweep=(),
            works={"caopd": BETTER},
        ),
        Claim(
            says="Plain self-distillation claims too much: confidence − accuracy +32.4 % against −0.7 % (the same)",
            variants={"caopd": CAOPD, "sdft": f"{CAOPD} --rewrite none"},
            higher="sdft",
            lower="caopd",
            metric="eval/overconfidence",
            sweep=(),
            works={"caopd": BETTER},
        ),
    ),
)
