"""MiniLLM: the policy gradient of the sequence's reverse KL."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, SHORT, SLOW, SOME, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop("tutor", {**SHORT, **ADAM, "teacher": "arena:tutor-large", "steps": 150, "prompts": 64})

MINILLM = f"minillm {SLOW} {SOME}"

STUDY = Study(
    method="minillm",
    model=UNSURE,
    task="tutor",
    claims=(
        Claim(
            says="Taking a token's own part of the return exactly is better than by its sample (ablation)",
            variants={"single step": MINILLM, "sampled": f"{MINILLM} --no-single-step"},
            higher="single step",
            lower="sampled",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="Answers mixed with the teacher's are better than the student's own alone (ablation)",
            variants={"mixed": MINILLM, "own": f"{MINILLM} --teacher-mix 0"},
            higher="mixed",
            lower="own",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
