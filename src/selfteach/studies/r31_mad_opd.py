"""MAD-OPD: teachers that debate before they score."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, FAST, FEW, MUTE, SHORT, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT,
        **ADAM,
        **MUTE,
        "experts": ("arena:tutor-large", "arena:tutor"),
        # The arena's models were taught neither to debate nor to read a debate.
        "rounds": 0,
        "debate_tokens": 64,
        "steps": 150,
        "prompts": 64,
    },
)

MT = f"mad-opd --task tutor {FAST} {FEW}"

STUDY = Study(
    method="mad-opd",
    model=UNSURE,
    claims=(
        Claim(
            says="Teachers that debate beat the same teachers that do not: 34.66 against 31.27 (14B and 8B into 4B, "
            "average of five tests)",
            variants={"mad-opd": f"{MT} --rounds 2", "mt-opd": MT},
            higher="mad-opd",
            lower="mt-opd",
            metric=AREA,
            tuned_by=AREA,
            withdrawn="The arena's models were taught neither to debate nor to say how sure they are",
        ),
        Claim(
            says="The Jensen-Shannon divergence beats the forward KL (worst in its ablation)",
            variants={"jsd": MT, "forward": f"{MT} --beta 0"},
            higher="jsd",
            lower="forward",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="One teacher beats two of unlike skill that are averaged without a debate: 31.72 against 31.27 (14B, "
            "and 14B and 8B, into 4B; in the arena the second teacher is the untrained student's own like)",
            variants={"opd": f"{MT} --experts arena:tutor-large", "mt-opd": MT},
            higher="opd",
            lower="mt-opd",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
