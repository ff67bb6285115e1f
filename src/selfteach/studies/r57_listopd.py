"""ListOPD: extrapolation below its cliff."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, MUTE, SHORT, Laptop
from selfteach.studies.study import Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT,
        **ADAM,
        **MUTE,
        "teacher": "arena:tutor-large",
        "estimator": "full",
        "steps": 150,
        "prompts": 64,
    },
)

# The teacher is what the student's own base became with solutions in sight; the weight's cap is the paper's.
FORMAT = "listopd --task json --estimator sampled --is-cap 5 --steps 60 --prompts 16 --teacher {variant teacher}/model"
VARIANTS = {
    "teacher": "opsd --task json --steps 60 --prompts 16",
    "below": f"{FORMAT} --reward-scale 1.1",
    "beyond": f"{FORMAT} --reward-scale 2.5",
    "plain": f"{FORMAT} --reward-scale 1",
}

STUDY = Study(
    method="listopd",
    claims=(
        Claim(
            says="Beyond the limit the format is lost: strict parse rate 94.8 % just below it, a sudden fall past it "
            "(Qwen3-1.7B, Amazon Fashion)",
            variants=VARIANTS,
            higher="below",
            lower="beyond",
            metric="eval/valid",
            tuned_by="eval/valid",
            may_fail=("beyond",),
        ),
        Claim(
            says="Below it extrapolation helps the format (33.5 % to 94.8 % from the warm start)",
            variants=VARIANTS,
            higher="below",
            lower="plain",
            metric="eval/valid",
            tuned_by="eval/valid",
        ),
    ),
)
