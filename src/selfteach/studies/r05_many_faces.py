"""Many Faces: a rule that all share is taken up, what belongs to one problem is not."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, SHORT, Laptop
from selfteach.studies.study import Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **PLAIN, "privilege": "solution", "place": "user", "lr": 3e-4, "per_prompt": 4, "steps": 150,
        "prompts": 16,
    },
)  # fmt: skip

FACES = "many-faces --steps 100 --loss reverse-kl"
CUT = "many-faces --steps 100 --loss-top-k 2"
LARGE = "many-faces --task tutor --teacher arena:tutor-large --privilege none"

STUDY = Study(
    method="many-faces",
    claims=(
        Claim(
            says="A rule that all examples share is taken up; what belongs to one example, its answer, is not",
            variants={
                "rule": f"{FACES} --task rule --privilege rule",
                "answer": f"{FACES} --task rule --privilege answer",
            },
            higher="rule",
            lower="answer",
        ),
        Claim(
            says="and nor is its solution",
            variants={
                "rule": f"{FACES} --task rule --privilege rule",
                "solution": f"{FACES} --task rule --privilege solution",
            },
            higher="rule",
            lower="solution",
        ),
        Claim(
            says="The top-k reverse KL without its gradient of the mass is the better one",
            variants={
                "mended": f"{CUT} --task rule --privilege rule",
                "biased": f"{CUT} --loss topk --task rule --privilege rule",
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
        ),
        Claim(
            says="A short imitation of the teacher's text before it helps",
            variants={
                "with": f"{LARGE} --sft-steps 20 --steps 60",
                "without": f"{LARGE} --steps 80",
            },
            higher="with",
            lower="without",
        ),
    ),
)  # fmt: skip
