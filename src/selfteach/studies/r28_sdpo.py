"""SDPO: siblings and feedback as privilege; training on one question at test time."""

from __future__ import annotations

from selfteach.studies.grpo import ADAMS, REINFORCED, ROWS
from selfteach.studies.laptop import ADAM, MUTE, SHORT, SLOW, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

SDPO = {
    **SHORT, **ADAM, **MUTE, "feedback": "always", "alpha": 1.0, "student_top_k": 20, "update_rate": 0.01,
    "per_prompt": 2, "steps": 150, "prompts": 32,
}  # fmt: skip
LAPTOP = Laptop(
    "tutor",
    SDPO,
    {
        "arena-ttt": {
            **SDPO,
            "sibling": False,
            "clip_advantage": 5.0,
            "per_prompt": 16,
            "prompts": 1,
            "steps": 172,
        }
    },
)

LONG = f"sdpo {SLOW} {ROWS} {ADAMS} --model {UNSURE}"
ONE_QUESTION = "sdpo --preset arena-ttt --only 5 --steps 20"

STUDY = Study(
    method="sdpo",
    task="tutor",
    claims=(
        Claim(
            says="SDPO is more accurate than GRPO after equal training: 48.8 against 41.2 (Qwen3-8B, LiveCodeBench v6)",
            variants={
                "sdpo": LONG,
                "grpo": f"{REINFORCED} --mean-over tokens --model {UNSURE}",
            },
            higher="sdpo",
            lower="grpo",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="An averaged teacher goes further than a live one, which diverges: best 49.3 against 36.1 (the same); "
            "here at three times the rate that is best for either",
            variants={
                "average": f"{LONG} --weights ema --lr 1e-3",
                "live": f"{LONG} --weights live --lr 1e-3",
            },
            higher="average",
            lower="live",
            metric=AREA,
            sweep=(),  # at the best rate of each the live one does not diverge
            may_fail=("live",),
        ),
        Claim(
            says="On one hard question, training on its feedback finds answers where as many independent attempts do "
            "not: 53.2 % against 41.5 % found within 2750 attempts (nine very hard questions); here the share of right "
            "answers among 320",
            variants={"trained": ONE_QUESTION, "independent": f"{ONE_QUESTION} --lr 1e-12"},
            higher="trained",
            lower="independent",
            metric="mean reward/mean",
            sweep=(),  # the learning rate is what differs
        ),
    ),
)
