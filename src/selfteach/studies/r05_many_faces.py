"""Many Faces: a rule that all share is taken up, what belongs to one problem is not.

World rule shows less than the paper claims: answer and solution follow from the problem there, so a student could
learn to work them out. What is tested is whether distillation takes that way within the steps.
"""

from __future__ import annotations

from selfteach.studies.laptop import FEW, PLAIN, SHORT, UNSURE, Laptop
from selfteach.studies.study import Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **PLAIN, "privilege": "solution", "place": "user", "lr": 3e-4, "per_prompt": 4, "steps": 150,
        "prompts": 16,
    },
)  # fmt: skip

FACES = "many-faces --steps 100 --loss reverse-kl"
CUT = "many-faces --steps 100 --loss-top-k 2 --task rule --privilege rule"
LARGE = f"many-faces --task tutor --teacher arena:tutor-large --privilege none --per-prompt 1 {FEW} --model {UNSURE}"

STUDY = Study(
    method="many-faces",
    claims=(
        Claim(
            says="A rule that all examples share is taken up sooner than what belongs to one example, its answer "
            "(paper: that is not taken up at all; here it is a function of the problem)",
            variants={
                "rule": f"{FACES} --task rule --privilege rule",
                "answer": f"{FACES} --task rule --privilege answer",
            },
            higher="rule",
            lower="answer",
            may_fail=("answer",),
        ),
        Claim(
            says="and sooner than its solution (the same)",
            variants={
                "rule": f"{FACES} --task rule --privilege rule",
                "solution": f"{FACES} --task rule --privilege solution",
            },
            higher="rule",
            lower="solution",
            may_fail=("solution",),
        ),
        Claim(
            says="The top-k reverse KL without its gradient of the mass is the better one",
            variants={
                "mended": CUT,
                "biased": f"{CUT} --loss topk",
            },
            higher="mended",
            lower="biased",
        ),
        Claim(
            says="A teacher made by reinforcement from the student's own base beats the base as a teacher",
            variants={
                "made": f"{FACES} --privilege solution --rlvr-steps 40 --task tutor",
                "base": f"{FACES} --privilege solution --task tutor",
            },
            higher="made",
            lower="base",
            withdrawn="the arena's model reads a solution without fault (0.999) and one with gaps not at all (0.000): "
            "reinforcement has nothing to add, or nothing to begin with",
        ),
        Claim(
            says="A short imitation of the teacher's text before it helps",
            variants={
                "with": f"{LARGE} --sft-steps 4 --steps 8",
                "without": f"{LARGE} --steps 12",
            },
            higher="with",
            lower="without",
        ),
    ),
)  # fmt: skip
