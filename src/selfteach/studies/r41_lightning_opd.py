"""Lightning OPD: answers and the teacher's scores are stored once."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, SHORT, SOME, UNSURE, Laptop
from selfteach.studies.study import Claim, Study
from selfteach.studies.verdict import Within

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **ADAM, "teacher": "arena:tutor-large", "stored": 1024, "steps": 100, "prompts": 64,
        "sft_steps": 50, "sft_prompts": 512, "sft_batch": 64, "sft_lr": 3e-4, "sft_max_tokens": 64,
        "mean_over": "sequences",
    },
)  # fmt: skip

SAME = f"lightning-opd {SOME} --stored 384 --sft-prompts 384 --sft-batch 16"
OFFLINE = f"{SAME} --sft-steps 6 --steps 18"
BOTH = ("--lr x0.3|x1", "--sft-lr x1|x3")
"""The main rate of either side."""

STUDY = Study(
    method="lightning-opd",
    model=UNSURE,
    task="tutor",
    claims=(
        Claim(
            says="Stored answers do as well as fresh ones: AIME24 68.1 against 65.4 (4B), 69.9 against 68.5 (8B)",
            variants={"offline": OFFLINE, "online": f"{OFFLINE} --stored 0"},
            higher="offline",
            lower="online",
            sweep=BOTH,
            rule=Within(0.05),
        ),
        Claim(
            says="They add to fine-tuning on the teacher's text: AIME24 56.7 to 68.1 (4B)",
            variants={"lightning": OFFLINE, "sft": f"{SAME} --sft-steps 23 --steps 1"},
            higher="lightning",
            lower="sft",
            sweep=BOTH,
            looked="the teacher is right in 0.999 and writes the student's language, so that its text alone leads to "
            "0.96; at equal steps the stored answers take the place of 17 of its 23",
        ),
        Claim(
            says="Offline without teacher consistency fails to match: text and scores must be one teacher's",
            variants={
                "one teacher": OFFLINE,
                "two teachers": f"{OFFLINE} --sft-teacher arena:tutor-large-other --allow-inconsistent",
            },
            higher="one teacher",
            lower="two teachers",
            sweep=BOTH,
            withdrawn="text and opinion of that other teacher alone come to 0 as well: consistency is not what is seen",
        ),
    ),
)
