"""Sleep: new facts, learned in wake, beside those that are known."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, SHORT, Laptop
from selfteach.studies.study import Claim, Study, Works

EXPERT = {"lora_rank": 16, "lora_alpha": 32}
LAPTOP = Laptop(
    "facts",
    {
        **SHORT, **PLAIN, **EXPERT, "lr": 3e-3, "per_prompt": 4, "prompts": 25, "steps": 150, "reference": "worked",
        "wake_lr": 3e-3, "wake_steps": 60,
    },
)  # fmt: skip

LEARN = "sft --task facts --reference worked --eval-also known"
MLP = "--lora-rank 16 --lora-alpha 32 --lora-targets gate_proj up_proj down_proj"
WAKE = f"{LEARN} --lr 3e-3 --steps 60 --prompts 25 {MLP}"
SLEEP = "sleep --eval-also known --teacher {variant wake}/model"
ALL = "--lora-rank 0 --lr 1e-3"
"""Instead of an expert, at the rate of all weights."""
LEARNED = Works(above=0.5, by=0)
"""Half of the new facts at least."""

STUDY = Study(
    method="sleep",
    task="facts",
    claims=(
        Claim(
            says="Learning to imitate adds to the distillation: 79.2 against 76.8 without (8B, AIME24; here of "
            "recalled new facts)",
            variants={"wake": WAKE, "sleep": SLEEP, "distillation": f"{SLEEP} --alpha 1"},
            higher="sleep",
            lower="distillation",
        ),
        Claim(
            says="A new expert adds: 79.2 against 78.2 without expansion (8B, AIME24; here of recalled new facts)",
            variants={"wake": WAKE, "expert": SLEEP, "all weights": f"{SLEEP} {ALL}"},
            higher="expert",
            lower="all weights",
        ),
        Claim(
            says="What was known is kept where fine-tuning on the new facts loses it (continual learning; a figure)",
            variants={"wake": WAKE, "sleep": SLEEP, "sft": f"{LEARN} --lr 3e-4 --steps 150 --prompts 100"},
            higher="sleep",
            lower="sft",
            metric="eval/known/accuracy",
            works={"sleep": LEARNED, "sft": LEARNED},
        ),
    ),
)
