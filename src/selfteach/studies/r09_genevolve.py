"""GenEvolve without images: in the arena an experience is the group's best rollout itself."""

from __future__ import annotations

from selfteach.studies.grpo import ADAMS, ROWS
from selfteach.studies.laptop import PLAIN, SHORT, SLOW, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study
from selfteach.studies.verdict import Within

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT,
        **PLAIN,
        "lr": 3e-4,
        "kl": 0.0,
        "per_prompt": 8,
        "steps": 150,
        "prompts": 8,
        "summarizer": "rule",
        "experience_template": "{problem}|={experience}",
    },
)

EVOLVE = f"genevolve --task tutor {SLOW} {ROWS} {ADAMS}"

STUDY = Study(
    method="genevolve",
    model=UNSURE,
    claims=(
        Claim(
            says="Distilling experience beside the reward beats GRPO alone (SFT < SFT + GRPO < all of it)",
            variants={"genevolve": EVOLVE, "grpo": f"{EVOLVE} --distill-weight 0"},
            higher="genevolve",
            lower="grpo",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="A tenth of the tokens, those that the experience changes most, is enough: as good as all of them",
            variants={"tenth": EVOLVE, "all": f"{EVOLVE} --top-share 1"},
            higher="tenth",
            lower="all",
            metric=AREA,
            tuned_by=AREA,
            rule=Within(0.05),
        ),
    ),
)
