"""MixSD: imitate what the model wrote, by turns knowing the fact and not."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, MUTE, SHORT, Laptop
from selfteach.studies.study import Claim, Study, Works
from selfteach.studies.verdict import Within

LAPTOP = Laptop(
    "facts",
    {
        **SHORT, **ADAM, **MUTE, "lr": 3e-4, "attempts": 100, "stored": 50, "steps": 150, "prompts": 50,
        "warmup": 20,
    },
)  # fmt: skip

MIXED = "mixsd --eval-also sums"
WRITTEN = (
    "sft --task facts --lr 3e-4 --steps 150 --prompts 50 --eval-also sums --reference worked "
    "--betas 0.9 0.95 --warmup 20"
)
LEARNED = Works(above=0.5, by=0)
SAME_TEXT = (
    "targets must verify, and of this world's model those that do are the written ones word for word: both sides "
    "are the same run"
)

STUDY = Study(
    method="mixsd",
    task="facts",
    claims=(
        Claim(
            says="Targets that the model wrote keep what it could do: MATH-500, GSM8K and more from 82.6 to 79.2, by "
            "SFT to 16.6 (Qwen3-4B, KGFunc)",
            variants={"mixsd": MIXED, "sft": WRITTEN},
            higher="mixsd",
            lower="sft",
            metric="eval/sums/accuracy",
            works={"mixsd": LEARNED, "sft": LEARNED},
            withdrawn=SAME_TEXT,
        ),
        Claim(
            says="The more the uninformed self takes part, the likelier the targets under the base",
            variants={"half": f"{MIXED} --share 0.5", "informed alone": f"{MIXED} --share 0"},
            higher="informed alone",
            lower="half",
            metric="first loss",
            withdrawn="targets must verify, and here whoever writes the answer's tokens, those that do are the same",
        ),
        Claim(
            says="The facts are learned as well as from written targets (similar in-domain accuracy)",
            variants={"mixsd": MIXED, "sft": WRITTEN},
            higher="mixsd",
            lower="sft",
            rule=Within(0.1),
            withdrawn=SAME_TEXT,
        ),
    ),
)
